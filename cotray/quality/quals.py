"""QUALS (Nan et al. 2021): is what a rationale says backed by its source? One model asks and answers.

It writes question-answer pairs about the rationale, and QUALS is how much less likely the same pairs are
after the source than after the rationale: 0 where the source says the same, below 0 where it does not.
Formulas: docs/explanation/method.md#quals-of-a-rationale
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cotray.prompts.qa_pairs import QuestionAnswer
from cotray.quality.pair_filter import select_pairs
from cotray.quality.qa_model import QAModel
from cotray.records import QAPair, Rationale

TokenLogprobs = Sequence[Sequence[float]]
"""One sequence of natural-log probabilities per pair."""


@dataclass(frozen=True)
class Quals:
    """Mean natural-log probabilities per token; None without a pair, or, where they are needed, without facts
    other than the rationale itself.

    `grounded`: QUALS against question, answer and facts. `novel`: minus QUALS against question and answer,
    how much of the rationale is not already there. `delta` = grounded + novel, the part of the new that the
    facts back. `shuffled`: `grounded` with the facts of another question, a floor for it.
    """

    num_pairs: int = 0
    grounded: float | None = None
    novel: float | None = None
    delta: float | None = None
    shuffled: float | None = None


def quals(source: TokenLogprobs, rationale: TokenLogprobs) -> float | None:
    """QUALS from the tokens' log-probabilities of each pair after the source and after the rationale.

    A mean over tokens, then an unweighted one over pairs; None without pairs.
    """
    return mean_difference([_mean(tokens) for tokens in source], [_mean(tokens) for tokens in rationale])


def mean_difference(source: Sequence[float], rationale: Sequence[float]) -> float | None:
    """QUALS from each pair's mean log-probability after the source and after the rationale."""
    differences = [s - r for s, r in zip(source, rationale, strict=True)]
    return _mean(differences) if differences else None


def supporting_facts(pair: QAPair) -> tuple[str, ...]:
    """What backs the right answer: the question's facts, or the explanation where that is all there is."""
    return pair.facts or ((pair.reference_rationale,) if pair.reference_rationale else ())


def facts_beside(rationale: Rationale) -> tuple[str, ...]:
    """The supporting facts, or () where the rationale is those facts, as people's are: nothing is left to
    compare it with."""
    facts = supporting_facts(rationale)
    return () if rationale.rationale == " ".join(facts) else facts


def source_text(rationale: Rationale, facts: Sequence[str]) -> str:
    """The question, the answer that the rationale is for, and facts."""
    return " ".join([rationale.question, f"The answer is {rationale.target_answer}.", *facts])


class QualsScorer:
    def __init__(
        self, model: QAModel, *, num_groups: int, strength: float, max_pairs: int, max_new_tokens: int
    ) -> None:
        self.model, self.max_pairs = model, max_pairs
        self.num_groups, self.strength, self.max_new_tokens = num_groups, strength, max_new_tokens

    def pairs(self, texts: Sequence[str]) -> list[tuple[QuestionAnswer, ...]]:
        """The pairs about each text that QUALS is computed from."""
        written = self.model.write_pairs(
            texts, num_groups=self.num_groups, strength=self.strength, max_new_tokens=self.max_new_tokens
        )
        return [
            select_pairs(group, text, most=self.max_pairs) for group, text in zip(written, texts, strict=True)
        ]

    def against(
        self,
        texts: Sequence[str],
        pairs: Sequence[tuple[QuestionAnswer, ...]],
        sources: Sequence[Sequence[str]],
    ) -> list[list[float | None]]:
        """QUALS of each text against each of its sources.

        A text and its sources go through one scorer, and equal ones are scored once: a text as its own
        source has exactly 0.
        """
        wanted = {
            (context, group): None
            for text, group, own in zip(texts, pairs, sources, strict=True)
            for context in (text, *own)
        }
        logprobs = self.model.mean_logprobs([text for text, _ in wanted], [group for _, group in wanted])
        scored = dict(zip(wanted, logprobs, strict=True))
        return [
            [mean_difference(scored[source, group], scored[text, group]) for source in own]
            for text, group, own in zip(texts, pairs, sources, strict=True)
        ]

    def score(self, rationales: Sequence[Rationale], other_facts: Sequence[Sequence[str]]) -> list[Quals]:
        """`other_facts`: of another question, for each rationale; () where there is none."""
        texts = [rationale.rationale for rationale in rationales]
        pairs = self.pairs(texts)
        facts = [facts_beside(rationale) for rationale in rationales]
        sources = [
            [source_text(r, ()), *([source_text(r, own)] if own else []),
             *([source_text(r, other)] if own and other else [])]
            for r, own, other in zip(rationales, facts, other_facts, strict=True)
        ]  # fmt: skip
        scores = self.against(texts, pairs, sources)
        return [_parts(len(group), values) for group, values in zip(pairs, scores, strict=True)]


def _parts(num_pairs: int, values: Sequence[float | None]) -> Quals:
    """`values`: QUALS against the question, then, where there are facts, against the two other sources."""
    known = [value for value in values if value is not None]
    if not known:
        return Quals()
    novel = -known[0]
    if len(known) == 1:
        return Quals(num_pairs, novel=novel)
    grounded, *shuffled = known[1:]
    return Quals(num_pairs, grounded, novel, grounded + novel, next(iter(shuffled), None))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
