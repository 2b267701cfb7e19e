"""How the shards of a stage are cut into units: the shares that replicas take, one after the other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

MAX_UNITS = 4096
"""Of work that is handed out; more rows make larger units, up to one for each shard, so that the driver's
memory stays flat."""


class WorkUnit(NamedTuple):
    """Batches `first` up to `last` of what is waiting in a shard."""

    shard: str
    first: int
    last: int


def batch_size_for(num_rows: int, batch_size: int, max_replicas: int) -> int:
    """Few rows are shared evenly."""
    return max(1, min(batch_size, math.ceil(num_rows / max_replicas)))


def units_of(sizes: Mapping[str, int], batch_size: int) -> list[WorkUnit]:
    """Cut shards of `sizes` rows; a unit never spans shards."""
    num_batches = {shard: math.ceil(size / batch_size) for shard, size in sizes.items()}
    step = max(1, math.ceil(sum(num_batches.values()) / MAX_UNITS))
    return [
        WorkUnit(shard, first, min(first + step, count))
        for shard, count in num_batches.items()
        for first in range(0, count, step)
    ]
