"""ConSeq: which rationales a student learns, and which of those that it writes itself it unlearns.

Of the questions whose teacher rationale scores among the highest and whose worst sample of the student's own
scores among the lowest, the one becomes likelier and the other unlikelier, on the tokens of the rationale.
Nan et al. 2021; formulas: docs/explanation/method.md#conseq
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cotray.config.assessing import Score
from cotray.records import Assessment


def select(
    best: Mapping[str, float | None], worst: Mapping[str, float | None], *, share: float = 0.3
) -> set[str]:
    """Ids of the questions to learn from.

    `best` has the score of each question's rationale to be learned, `worst` that of the student's lowest
    sample; None, the score of text without anything to ask about, is never chosen, but counts as a question.
    `share` of either list is taken, then those in both. Halves round to even, as in the published code.
    """
    highest = sorted((-score, name) for name, score in best.items() if score is not None)
    lowest = sorted((score, name) for name, score in worst.items() if score is not None)
    num_highest, num_lowest = round(share * len(best)), round(share * len(worst))
    return {name for _, name in highest[:num_highest]} & {name for _, name in lowest[:num_lowest]}


class Pair(NamedTuple):
    """A teacher's rationale and a student's sample for the same question."""

    chosen: Assessment
    rejected: Assessment


@dataclass(frozen=True)
class Pairs:
    """`num_scored` of `num_questions` have a score on both sides; `selected` is in the order of the ids."""

    num_questions: int
    num_scored: int
    selected: tuple[Pair, ...]


def pair_up(
    rationales: Sequence[Assessment], samples: Sequence[Assessment], *, score: Score, share: float
) -> Pairs:
    """The best of each question's rationales beside the worst of its samples, of the questions selected.

    Samples without a word have nothing to unlearn, and a sample that is the rationale itself would be learned
    and unlearned at once: neither is ever the worst one.
    """
    ranked = _by_question(rationales, score)
    best = {id_: max(rows, key=lambda row: (row[0], -row[1].sample)) for id_, rows in ranked.items()}
    drawn = _by_question([row for row in samples if row.rationale.strip()], score)
    worst = {
        id_: min(others, key=lambda row: (row[0], row[1].sample))
        for id_, rows in drawn.items()
        if (others := [row for row in rows if id_ not in best or row[1].rationale != best[id_][1].rationale])
    }
    ids = {row.id for row in rationales} & {row.id for row in samples}
    selected = select(
        {id_: best[id_][0] if id_ in best else None for id_ in ids},
        {id_: worst[id_][0] if id_ in worst else None for id_ in ids},
        share=share,
    )
    pairs = tuple(Pair(best[id_][1], worst[id_][1]) for id_ in sorted(selected))
    return Pairs(len(ids), len(ids & best.keys() & worst.keys()), pairs)


def _by_question(rows: Sequence[Assessment], score: Score) -> dict[str, list[tuple[float, Assessment]]]:
    """The rows that have the score, with it."""
    scored: dict[str, list[tuple[float, Assessment]]] = defaultdict(list)
    for row in rows:
        if (value := getattr(row, score)) is not None:
            scored[row.id].append((float(value), row))
    return scored
