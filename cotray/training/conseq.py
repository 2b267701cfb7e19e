"""ConSeq (METHOD 5.6): a student learns its best rationales and unlearns the worst that it writes itself.

Of the questions whose teacher rationale scores among the highest and whose worst sample of the student's own
scores among the lowest, the one becomes likelier and the other unlikelier, on the tokens of the rationale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cotray.prompts.student import ANSWER_PHRASE
from cotray.records import Kind, TrainExample
from cotray.training.batches import StepExamples, Stream, place


def select(
    best: Mapping[str, float | None], worst: Mapping[str, float | None], *, share: float = 0.3
) -> set[str]:
    """Ids of the questions to learn from.

    `best` has the score of each question's rationale to be learned, `worst` that of the student's lowest
    sample; None, the score of text without anything to ask about, ranks as the lowest rationale and as the
    highest sample, so that neither is chosen for it. `share` of either list is taken, then those in both.
    Halves round to even, as in the published code.
    """
    highest = sorted((name for name in best), key=lambda name: (best[name] is None, -(best[name] or 0), name))
    lowest = sorted((name for name in worst), key=lambda name: (worst[name] is None, worst[name] or 0, name))
    return set(highest[: round(share * len(best))]) & set(lowest[: round(share * len(worst))])


def rationale_only(example: TrainExample) -> TrainExample:
    """The same text with a loss on its rationale alone."""
    return replace(example, supervise_to=example.target.rindex(ANSWER_PHRASE))


@dataclass(frozen=True)
class Contrast:
    """What is to become likelier and what unlikelier, of one question."""

    id: str
    kind: Kind
    chosen: TrainExample
    rejected: TrainExample


class ConSeqBatches:
    """Pairs of a chosen and a rejected rationale, and counterfactual examples as in `StudentBatches`."""

    def __init__(
        self,
        contrasts: Sequence[Contrast],
        counterfactual: Sequence[TrainExample],
        *,
        batch_size: int,
        seed: int,
    ):
        self.batch_size = batch_size
        self.contrasts = Stream(contrasts, seed=seed, name="contrasts")
        self.counterfactual = Stream(counterfactual, seed=seed, name="counterfactual")

    @property
    def num_steps_per_epoch(self) -> int:
        return -(-len(self.contrasts.items) // self.batch_size)

    def __call__(self, step: int) -> StepExamples:
        start, count = place(step, self.batch_size, len(self.contrasts.items))
        pairs = self.contrasts.take(start, count)
        return StepExamples(
            [rationale_only(pair.chosen) for pair in pairs],
            self.counterfactual.take(start, count) if self.counterfactual.items else (),
            [rationale_only(pair.rejected) for pair in pairs],
        )
