"""Rows of about equal length go through a model together, because the longest sets the pace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cotray.records import Record


def in_sorted_batches(
    process: Callable[[Sequence[Any]], list[Any]],
    batch_size: int,
    column: str,
    records: Sequence[Record],
    *,
    on_finished: Callable[[int], None],
) -> list[Record]:
    """What `process` makes of `batch_size` records at a time, sorted by the length of `column`; in order."""
    order = sorted(range(len(records)), key=lambda i: len(getattr(records[i], column, "")))
    made: dict[int, Record] = {}
    for start in range(0, len(order), batch_size):
        chunk = order[start : start + batch_size]
        made |= zip(chunk, process([records[i] for i in chunk]), strict=True)
        for _ in chunk:
            on_finished(1)
    return [made[i] for i in range(len(records))]
