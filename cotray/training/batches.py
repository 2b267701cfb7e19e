"""Which examples make optimizer step k: a pure function of (seed, step), so that resuming needs only k.

The factual examples define the epoch; its last batch may be smaller. Counterfactual examples come
from a stream of their own that is shuffled anew whenever it is exhausted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

from cotray.models.sequences import encode
from cotray.records import TrainExample
from cotray.seeds import seeded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class StepExamples(NamedTuple):
    """What one optimizer step learns from, over all workers; rejected examples are to become unlikely."""

    factual: Sequence[TrainExample]
    counterfactual: Sequence[TrainExample] = ()
    rejected: Sequence[TrainExample] = ()


class Batches(Protocol):
    """What the training loop asks for; must be picklable, because it travels to the workers."""

    @property
    def num_steps_per_epoch(self) -> int: ...

    def __call__(self, step: int) -> StepExamples:
        """The examples of step `step`, counted from 0."""
        ...


class Item(Protocol):
    """Anything with a name of its own: records that a simulator example is rendered from."""

    @property
    def id(self) -> str: ...

    @property
    def kind(self) -> str: ...


T = TypeVar("T", bound=Item)


class Stream(Generic[T]):
    """Endless repetition of `items`, in another order each time; the order of `items` is irrelevant."""

    def __init__(self, items: Sequence[T], *, seed: int, name: str):
        self.items = sorted(items, key=lambda item: (item.id, item.kind))
        self.seed = seed
        self.name = name

    def take(self, start: int, count: int) -> list[T]:
        size = len(self.items)
        epochs_and_places = (divmod(position, size) for position in range(start, start + count))
        return [self.items[_order(size, self.seed, self.name, e)[p]] for e, p in epochs_and_places]


@lru_cache(maxsize=4)
def _order(size: int, seed: int, name: str, epoch: int) -> tuple[int, ...]:
    return tuple(seeded(seed, name, str(epoch)).sample(range(size), size))


class StudentBatches:
    """SCOTT's batches: a factual one and, if alpha > 0, a counterfactual one of the same size."""

    def __init__(self, examples: Sequence[TrainExample], *, batch_size: int, alpha: float, seed: int):
        factual = [example for example in examples if example.kind == "factual"]
        counterfactual = [example for example in examples if example.kind == "counterfactual" and alpha > 0]
        self.batch_size = batch_size
        self.factual = Stream(factual, seed=seed, name="factual")
        self.counterfactual = Stream(counterfactual, seed=seed, name="counterfactual")

    @property
    def num_steps_per_epoch(self) -> int:
        return math.ceil(len(self.factual.items) / self.batch_size)

    def __call__(self, step: int) -> StepExamples:
        start, count = place(step, self.batch_size, len(self.factual.items))
        has_counterfactual = bool(self.counterfactual.items)
        return StepExamples(
            self.factual.take(start, count),
            self.counterfactual.take(start, count) if has_counterfactual else (),
        )


class SimulatorBatches(Generic[T]):
    """Batches with input dropout (Hase et al. 2020), so that one simulator learns from x, e and x + e.

    Of a batch of B, int(explanation_dropout * B) rows lose e and int(input_dropout * B) others lose x.
    `render(item, drop_x, drop_e)` is a module-level function that writes the example.
    """

    def __init__(
        self,
        items: Sequence[T],
        render: Callable[[T, bool, bool], TrainExample],
        *,
        batch_size: int,
        explanation_dropout: float,
        input_dropout: float,
        seed: int,
    ):
        self.stream = Stream(items, seed=seed, name="factual")
        self.render = render
        self.batch_size = batch_size
        self.explanation_dropout = explanation_dropout
        self.input_dropout = input_dropout

    @property
    def num_steps_per_epoch(self) -> int:
        return math.ceil(len(self.stream.items) / self.batch_size)

    def __call__(self, step: int) -> StepExamples:
        start, count = place(step, self.batch_size, len(self.stream.items))
        rows = seeded(self.stream.seed, "dropout", str(step)).sample(range(count), count)
        num_without_e = int(self.explanation_dropout * count)
        without_e = set(rows[:num_without_e])
        without_x = set(rows[num_without_e : num_without_e + int(self.input_dropout * count)])
        items = enumerate(self.stream.take(start, count))
        return StepExamples([self.render(item, row in without_x, row in without_e) for row, item in items])


def place(step: int, batch_size: int, size: int) -> tuple[int, int]:
    """Where in the endless stream step `step` starts, and how many examples it takes."""
    epoch, batch = divmod(step, math.ceil(size / batch_size))
    start = batch * batch_size
    return epoch * size + start, min(batch_size, size - start)


def split_by_length(
    examples: Sequence[TrainExample],
    tokenizer: PreTrainedTokenizerBase,
    *,
    is_encoder_decoder: bool,
    max_length: int,
) -> tuple[list[TrainExample], list[TrainExample]]:
    """(kept, too_long): nothing is ever truncated, because a cut target would lose its answer."""
    kept, too_long = [], []
    for example in examples:
        encoded = encode(example, tokenizer, is_encoder_decoder=is_encoder_decoder)
        lengths = len(encoded.source), len(encoded.target)
        length = max(lengths) if is_encoder_decoder else sum(lengths)
        (kept if length <= max_length else too_long).append(example)
    return kept, too_long
