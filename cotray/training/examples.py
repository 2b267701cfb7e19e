"""What a model learns from, as token ids in Arrow's memory: a file of any size that is mapped, not read.

An example is looked up by its number, and only its own tokens are touched. Numbers of one split and kind come
sorted by id, so that neither the order of the input nor its shards matter, and kinds that belong together
(such as a question with and without its rationale) have the same place in each other's lists.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Self, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cotray.models.sequences import Encoded, encode_all
from cotray.records import TrainExample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("kind", pa.string()),
        ("split", pa.string()),
        ("weight", pa.float64()),
        ("source", pa.list_(pa.int32())),
        ("target", pa.list_(pa.int32())),
        ("is_supervised", pa.list_(pa.bool_())),
    ]
)
"""Of examples as token ids; the fields are those of `Encoded`."""

NumbersOf = Mapping[str, "np.ndarray"]
"""From "split-kind" to the numbers of its examples, sorted by id."""


def encoded_batch(
    examples: Sequence[TrainExample], encoded: Sequence[Encoded], schema: pa.Schema = SCHEMA
) -> pa.RecordBatch:
    """Examples beside their token ids as one batch of rows."""
    columns = {
        "id": [e.id for e in examples],
        "kind": [e.kind for e in examples],
        "split": [e.split for e in examples],
        "weight": [e.weight for e in examples],
        "source": [e.source for e in encoded],
        "target": [e.target for e in encoded],
        "is_supervised": [e.is_supervised for e in encoded],
    }
    return pa.record_batch([pa.array(columns[field.name], field.type) for field in schema], schema=schema)


class Index(NamedTuple):
    """Where the examples of each split and kind are, and how long."""

    numbers: NumbersOf
    lengths: np.ndarray
    """Tokens of each example, source and target, by number."""


def index_of(batches: Iterable[pa.RecordBatch]) -> Index:
    table = pa.Table.from_batches(batches, SCHEMA)
    lengths = sum(
        np.asarray(pc.list_value_length(table[name]), np.int32)  # type: ignore[attr-defined]
        for name in ("source", "target")
    )
    order = np.asarray(pc.sort_indices(table["id"]))  # type: ignore[attr-defined]
    group = pc.binary_join_element_wise(table["split"], table["kind"], "-")  # type: ignore[attr-defined]
    groups = group.combine_chunks().dictionary_encode()
    codes = np.asarray(groups.indices)[order]
    numbers = {name: order[codes == code] for code, name in enumerate(groups.dictionary.to_pylist())}
    return Index(numbers, np.asarray(lengths, np.int32))


class Examples:
    """All examples of a training run, by number."""

    def __init__(self, batches: Sequence[pa.RecordBatch], index: Index | None = None) -> None:
        self._batches = batches
        self._starts = np.cumsum([0, *(batch.num_rows for batch in batches)])
        self.index = index or index_of(batches)

    @classmethod
    def of(
        cls, examples: Sequence[TrainExample], tokenizer: PreTrainedTokenizerBase, *, is_encoder_decoder: bool
    ) -> Self:
        """Of a few, in this process's memory."""
        encoded = encode_all(examples, tokenizer, is_encoder_decoder=is_encoder_decoder)
        return cls([encoded_batch(examples, encoded)])

    def _find(self, number: int) -> tuple[pa.RecordBatch, int]:
        place = int(np.searchsorted(self._starts, number, side="right")) - 1
        return self._batches[place], int(number - self._starts[place])

    def id_of(self, number: int) -> str:
        batch, row = self._find(number)
        return batch["id"][row].as_py()

    def __getitem__(self, number: int) -> Encoded:
        batch, row = self._find(number)
        return Encoded(
            source=tuple(batch["source"][row].values.to_pylist()),
            target=tuple(batch["target"][row].values.to_pylist()),
            is_supervised=tuple(batch["is_supervised"][row].values.to_pylist()),
            weight=batch["weight"][row].as_py(),
            id=batch["id"][row].as_py(),
        )

    def rows(self, kind: str, split: str = "train") -> Rows:
        return Rows(self, self.index.numbers.get(f"{split}-{kind}", np.zeros(0, np.int64)))


class Rows(Sequence[Encoded]):
    """Some of the examples, in the order of `numbers`; each is read when it is asked for."""

    def __init__(self, examples: Examples, numbers: np.ndarray) -> None:
        self._examples, self.numbers = examples, numbers

    @property
    def lengths(self) -> np.ndarray:
        return self._examples.index.lengths[self.numbers]

    @property
    def ids(self) -> list[str]:
        """Without reading any tokens."""
        return [self._examples.id_of(number) for number in self.numbers]

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, place: int) -> Encoded: ...
    @overload
    def __getitem__(self, place: slice | np.ndarray) -> Rows: ...
    def __getitem__(self, place: int | slice | np.ndarray) -> Encoded | Rows:
        if isinstance(place, slice | np.ndarray):
            return Rows(self._examples, self.numbers[place])
        return self._examples[self.numbers[place]]
