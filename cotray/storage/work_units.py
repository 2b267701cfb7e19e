"""How the shards of a stage are cut into units: the shares that replicas take, one after the other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

MAX_UNITS = 4096
"""Of work that is handed out; more rows make larger units, up to one for each shard, so that the driver's
memory stays flat."""


MOST_BATCHES = 8
"""In a unit, where there are not too many: what a slow replica has taken, no other can take from it."""


class WorkUnit(NamedTuple):
    """Batches `first` up to `last` of what is waiting in a shard."""

    shard: str
    first: int
    last: int


def batch_size_for(num_rows: int, batch_size: int, max_replicas: int) -> int:
    """Few rows are shared evenly."""
    return max(1, min(batch_size, math.ceil(num_rows / max_replicas)))


def units_of(sizes: Mapping[str, int], batch_size: int, num_takers: int) -> list[WorkUnit]:
    """Cut shards of `sizes` rows; a unit never spans shards.

    A unit is half of what each of `num_takers` would still get, and MOST_BATCHES at most, so that few are
    handed out and the last ones are small: all takers end at about the same time (guided self-scheduling).
    """
    num_batches = {shard: math.ceil(size / batch_size) for shard, size in sizes.items()}
    left = sum(num_batches.values())
    least = max(1, math.ceil(left / MAX_UNITS))
    units = []
    for shard, count in num_batches.items():
        first = 0
        while first < count:
            last = min(count, first + max(least, min(left // (2 * num_takers), MOST_BATCHES)))
            units.append(WorkUnit(shard, first, last))
            left -= last - first
            first = last
    return units
