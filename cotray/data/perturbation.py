"""Perturbed answers: what the teacher is told to argue against, and what it is told to argue for instead.

The contrast answer and the counterfactual target are independent draws from the row with its gold answer,
never one from the other: flipping twice gives gold back. Both are seeded by the id, so that the order of the
rows changes nothing. Which is drawn for what: docs/explanation/method.md#counterfactual-rationales
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from cotray.data.columns import UnusableRow
from cotray.records import QAPair, Task, TeacherRequest, normalized
from cotray.seeds import digest, seeded

Rank = Callable[[QAPair, Sequence[str]], Sequence[float]]
"""How likely the teacher finds each candidate answer to a question; any increasing scale."""

POOL_SIZE = 1000
NUM_RANKED = 8


@dataclass(frozen=True)
class Source:
    """Where wrong answers come from; `pool` is called with the task of a question without choices when the
    first one needs it."""

    seed: int
    pool: Callable[[Task], Sequence[str]] = lambda task: ()
    rank: Rank | None = None


def answer_pool(answers: Iterable[str], seed: int, *, size: int = POOL_SIZE) -> tuple[str, ...]:
    """The distinct answers with the smallest digests: the same whatever order they come in.

    Of several spellings of one answer the first in alphabetical order stands for all.
    """
    pool: dict[int, str] = {}
    for answer in answers:
        key = digest(seed, normalized(answer), "pool")
        pool[key] = min(answer, pool.get(key, answer))
        if len(pool) > 2 * size:
            pool = {key: pool[key] for key in sorted(pool)[:size]}
    return tuple(pool[key] for key in sorted(pool)[:size])


def requests_of(pair: QAPair, perturbation: str, source: Source) -> list[TeacherRequest]:
    """A factual request, and for a training question a counterfactual one.

    UnusableRow where an open question has no other answer to be contrasted with.
    """
    contrast = PERTURBATIONS[perturbation](pair, source, "contrast")
    requests = [_request(pair, perturbation, "factual", pair.answer, contrast)]
    if pair.split == "train":
        is_hardest = perturbation == "hardest"
        target = contrast if is_hardest else wrong(pair, source, "counterfactual")
        contrast = "" if perturbation == "empty" else pair.answer
        requests.append(_request(pair, perturbation, "counterfactual", target, contrast))
    return requests


def other_requests(factual: TeacherRequest) -> list[TeacherRequest]:
    """For every other choice of a question: the teacher is to explain it, and not the right answer."""
    contrast = "" if factual.perturbation == "empty" else factual.answer
    others = [choice for choice in factual.choices if choice != factual.answer]
    return [
        replace(factual, kind="counterfactual", target_answer=other, contrast_answer=contrast)
        for other in others
    ]


def wrong(pair: QAPair, source: Source, purpose: str) -> str:
    """One of the wrong answers, all equally likely; the other one of a binary question."""
    rng = seeded(source.seed, pair.id, purpose)
    return rng.choice(_wrong_answers(pair, source, rng, num_open=1))


def empty(pair: QAPair, source: Source, purpose: str) -> str:
    return ""


def hardest(pair: QAPair, source: Source, purpose: str) -> str:
    """The wrong answer that the teacher finds likeliest, the first of equals."""
    rng = seeded(source.seed, pair.id, purpose)
    candidates = _wrong_answers(pair, source, rng, num_open=NUM_RANKED)
    if len(candidates) == 1:
        return candidates[0]
    assert source.rank is not None, "perturbation 'hardest' without a teacher to rank answers"
    scores = source.rank(pair, candidates)
    assert len(scores) == len(candidates), f"{len(scores)} scores for {len(candidates)} candidates"
    return candidates[max(range(len(candidates)), key=lambda index: scores[index])]


PERTURBATIONS: dict[str, Callable[[QAPair, Source, str], str]] = {
    "wrong": wrong,
    "empty": empty,
    "hardest": hardest,
}


def _wrong_answers(pair: QAPair, source: Source, rng: random.Random, *, num_open: int) -> list[str]:
    """The wrong choices, or without choices so many answers to other questions of the same task."""
    if pair.choices:
        return [choice for choice in pair.choices if choice != pair.answer]
    pool = source.pool(pair.task)
    # One more than needed: the pool holds an answer once, so that at most one drawn is gold.
    drawn = rng.sample(pool, min(num_open + 1, len(pool)))
    others = [answer for answer in drawn if normalized(answer) != normalized(pair.answer)]
    if not others:
        raise UnusableRow(f"no other {pair.task} question has a different answer to contrast with")
    return others[:num_open]


def _request(pair: QAPair, perturbation: str, kind: str, target: str, contrast: str) -> TeacherRequest:
    answers = {"kind": kind, "target_answer": target, "contrast_answer": contrast}
    return TeacherRequest.from_row(pair.to_row() | answers | {"perturbation": perturbation})
