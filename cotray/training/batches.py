"""Which examples make optimizer step k: a pure function of (seed, step), so that resuming needs only k.

The factual examples define the epoch; its last batch may be smaller. Counterfactual examples come
from a stream of their own that is shuffled anew whenever it is exhausted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np

from cotray.models.sequences import Encoded
from cotray.seeds import seeded
from cotray.training.examples import Examples, Rows


class StepExamples(NamedTuple):
    """What one optimizer step learns from, over all workers; rejected examples are to become unlikely."""

    factual: Sequence[Encoded]
    counterfactual: Sequence[Encoded] = ()
    rejected: Sequence[Encoded] = ()


class Batches(Protocol):
    """What the training loop asks for."""

    @property
    def num_steps_per_epoch(self) -> int: ...

    def __call__(self, step: int) -> StepExamples:
        """The examples of step `step`, counted from 0."""
        ...


class Stream:
    """Endless repetition of `size` places, in another order each time."""

    def __init__(self, size: int, *, seed: int, name: str):
        self.size, self.seed, self.name = size, seed, name

    def take(self, start: int, count: int) -> np.ndarray:
        epochs, places = np.divmod(np.arange(start, start + count), self.size)
        taken = [self.order(epoch)[places[epochs == epoch]] for epoch in np.unique(epochs).tolist()]
        return np.concatenate(taken) if taken else np.zeros(0, np.int64)

    def order(self, epoch: int) -> np.ndarray:
        return _order(self.size, self.seed, self.name, epoch)


@lru_cache(maxsize=4)
def _order(size: int, seed: int, name: str, epoch: int) -> np.ndarray:
    return np.array(seeded(seed, name, str(epoch)).sample(range(size), size), np.int32)


class Steps:
    """Which part of a stream each step takes: so many examples, or about so many tokens.

    With `batch_tokens` an epoch is cut into equal numbers of tokens, up to one example, into as many steps as
    are needed for none to have more than so many on average.
    """

    def __init__(self, stream: Stream, lengths: np.ndarray, *, batch_size: int, batch_tokens: int = 0):
        self.stream, self.lengths = stream, lengths
        self.batch_size, self.batch_tokens = batch_size, batch_tokens
        size = stream.size
        wanted = int(lengths.sum()) / batch_tokens if batch_tokens else size / batch_size
        self.per_epoch = min(size, math.ceil(wanted))

    def place(self, step: int) -> tuple[int, int]:
        """Where in the endless stream a step starts, and how many examples it takes."""
        epoch, batch = divmod(step, self.per_epoch)
        size = self.stream.size
        if self.batch_tokens:
            ends = self._ends(epoch)
            start, end = (int(ends[batch - 1]) if batch else 0), int(ends[batch])
        else:
            start = batch * self.batch_size
            end = min(start + self.batch_size, size)
        return epoch * size + start, end - start

    def _ends(self, epoch: int) -> np.ndarray:
        """Of each step of an epoch, after how many of its examples it ends; each has one at least."""
        read = np.cumsum(self.lengths[self.stream.order(epoch)], dtype=np.int64)
        numbers = np.arange(1, self.per_epoch + 1)
        ends = np.searchsorted(read, read[-1] * numbers / self.per_epoch)
        ends[-1] = self.stream.size
        latest = self.stream.size - self.per_epoch + numbers
        return np.minimum(np.maximum.accumulate(np.maximum(ends - numbers, 0)) + numbers, latest)


class _InSteps:
    """What all batches share: a stream of rows under a name, cut into steps."""

    def __init__(self, rows: Rows, name: str, *, seed: int, batch_size: int, batch_tokens: int):
        stream = Stream(len(rows), seed=seed, name=name)
        self._steps = Steps(stream, rows.lengths, batch_size=batch_size, batch_tokens=batch_tokens)

    @property
    def num_steps_per_epoch(self) -> int:
        return self._steps.per_epoch


class _Counterfactual:
    """The counterfactual examples beside a step's others, from a stream of their own; none if alpha is 0."""

    def __init__(self, examples: Examples, *, alpha: float, seed: int):
        rows = examples.rows("counterfactual")
        self.rows = rows if alpha > 0 else rows[:0]
        self.stream = Stream(len(self.rows), seed=seed, name="counterfactual")

    def take(self, start: int, count: int) -> Sequence[Encoded]:
        return self.rows[self.stream.take(start, count)] if self.rows else ()


class StudentBatches(_InSteps):
    """SCOTT's batches: a factual one and, if alpha > 0, a counterfactual one of the same size."""

    def __init__(
        self, examples: Examples, *, batch_size: int, alpha: float, seed: int, batch_tokens: int = 0
    ):
        self.factual = examples.rows("factual")
        self.counterfactual = _Counterfactual(examples, alpha=alpha, seed=seed)
        super().__init__(self.factual, "factual", seed=seed, batch_size=batch_size, batch_tokens=batch_tokens)

    def __call__(self, step: int) -> StepExamples:
        start, count = self._steps.place(step)
        places = self._steps.stream.take(start, count)
        return StepExamples(self.factual[places], self.counterfactual.take(start, count))


class SimulatorBatches(_InSteps):
    """Batches with input dropout (Hase et al. 2020), so that one simulator learns from x, e and x + e.

    Of a batch of B, int(explanation_dropout * B) rows lose e and int(input_dropout * B) others lose x. The
    examples have each answer three times: as kind `factual` with both, `x` and `e`.
    """

    def __init__(
        self,
        examples: Examples,
        *,
        batch_size: int,
        explanation_dropout: float,
        input_dropout: float,
        seed: int,
        batch_tokens: int = 0,
    ):
        self.both, self.x, self.e = (examples.rows(kind) for kind in ("factual", "x", "e"))
        self.explanation_dropout = explanation_dropout
        self.input_dropout = input_dropout
        super().__init__(self.both, "factual", seed=seed, batch_size=batch_size, batch_tokens=batch_tokens)

    def __call__(self, step: int) -> StepExamples:
        start, count = self._steps.place(step)
        stream = self._steps.stream
        rows = seeded(stream.seed, "dropout", str(step)).sample(range(count), count)
        num_without_e = int(self.explanation_dropout * count)
        without_e = set(rows[:num_without_e])
        without_x = set(rows[num_without_e : num_without_e + int(self.input_dropout * count)])
        arms = {**dict.fromkeys(without_x, self.e), **dict.fromkeys(without_e, self.x)}
        places = enumerate(stream.take(start, count).tolist())
        return StepExamples([arms.get(row, self.both)[place] for row, place in places])


class ConSeqBatches(_InSteps):
    """A chosen and a rejected rationale of each question, and counterfactual examples as in `StudentBatches`.

    The examples have the chosen ones as kind `factual`; a question without one of the two is left out.
    """

    def __init__(
        self, examples: Examples, *, batch_size: int, alpha: float, seed: int, batch_tokens: int = 0
    ):
        self.chosen, self.rejected = paired(examples.rows("factual"), examples.rows("rejected"))
        self.counterfactual = _Counterfactual(examples, alpha=alpha, seed=seed)
        super().__init__(
            self.chosen, "contrasts", seed=seed, batch_size=batch_size, batch_tokens=batch_tokens
        )

    def __call__(self, step: int) -> StepExamples:
        start, count = self._steps.place(step)
        places = self._steps.stream.take(start, count)
        return StepExamples(
            self.chosen[places], self.counterfactual.take(start, count), self.rejected[places]
        )


def paired(one: Rows, other: Rows) -> tuple[Rows, Rows]:
    """Of two lists sorted by id, each with an id once, what has an id in both."""
    ids = [np.array(rows.ids, object) for rows in (one, other)]
    _, first, second = np.intersect1d(*ids, assume_unique=True, return_indices=True)
    return one[first], other[second]
