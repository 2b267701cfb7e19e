"""What a pool of replicas has to do: the units that `cotray.pools.pool` would hand out, without its rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from cotray.config import RunConfig
from cotray.data.prepare import ROWS_PER_SHARD
from cotray.storage.shards import SEALERS_PER_NODE
from cotray.storage.work_units import batch_size_for, units_of

SEAL_S_PER_SHARD = 0.1
"""A shard of 2,048 rows is merged in 0.03 to 0.06 s on a local disk; its task and its counts come on top."""


@dataclass(frozen=True)
class Work:
    """One stage of a pool."""

    units: tuple[int, ...]
    """Batches of each; units without rows are left out."""
    seconds_per_batch: float
    batches_at_once: int = 1
    """Of one replica's model; it holds one unit more than so many."""
    setup_s: float = 0.0
    """From the stage's start until it asks for replicas."""
    seal_s: float = 0.0
    """From the last batch to the end of the stage."""

    @cached_property
    def num_batches(self) -> int:
        return sum(self.units)

    @property
    def replica_s(self) -> float:
        """Seconds that one replica would decode."""
        return self.num_batches * self.seconds_per_batch


@dataclass(frozen=True)
class Rows:
    """How many questions, and what becomes of them on their way."""

    questions: int
    train_fraction: float
    """These have a counterfactual request too (`prepare`)."""
    test_fraction: float

    @classmethod
    def of(cls, config: RunConfig, questions: int) -> Rows:
        data = config.data
        return cls(questions, 1 - data.dev_fraction - data.test_fraction, data.test_fraction)

    @property
    def counterfactual(self) -> int:
        return round(self.questions * self.train_fraction)

    @property
    def in_shards(self) -> int:
        """Of requests/ and of what follows; shards have rows of both kinds."""
        return self.questions + self.counterfactual

    def assessed(self, config: RunConfig) -> int:
        """Rationales of assessing.splits, one draw of each."""
        kinds = 2 if config.counterfactual_weight > 0 else 1
        dev = 1 - self.train_fraction - self.test_fraction
        shares = {"train": self.train_fraction * kinds, "dev": dev, "test": self.test_fraction}
        return round(self.questions * sum(shares[split] for split in set(config.assessing.splits)))


def generate_work(
    config: RunConfig,
    rows: Rows,
    *,
    tokens_per_s: float,
    tokens_per_rationale: float,
    num_replicas: int,
    num_nodes: int,
) -> Work:
    """`tokens_per_s` of one replica, over all rationales that it decodes at once."""
    requests = rows.in_shards if config.counterfactual_weight > 0 else rows.questions
    draws = config.teacher.decoding.num_draws
    return pool_work(
        rows.in_shards,
        requests,
        batch_size=batch_size_for(requests * draws, config.teacher.batch_size, num_replicas),
        replica_s=requests * draws * tokens_per_rationale / tokens_per_s,
        batches_at_once=2 if config.teacher.engine == "vllm" else 1,
        num_replicas=num_replicas,
        num_nodes=num_nodes,
    )


def pool_work(
    num_in_shards: int,
    num_wanted: int,
    *,
    batch_size: int,
    replica_s: float,
    num_replicas: int,
    num_nodes: int,
    batches_at_once: int = 1,
) -> Work:
    """Rows in shards of equal size, the wanted ones spread evenly over them."""
    shards = {
        str(index): min(ROWS_PER_SHARD, num_in_shards - start)
        for index, start in enumerate(range(0, num_in_shards, ROWS_PER_SHARD))
    }
    wanted = _spread(num_wanted, list(shards.values()))
    num_batches = {shard: math.ceil(rows / batch_size) for shard, rows in zip(shards, wanted, strict=True)}
    cut = units_of(shards, batch_size, num_replicas * (batches_at_once + 1))
    shares = [min(unit.last, num_batches[unit.shard]) - unit.first for unit in cut]
    units = tuple(share for share in shares if share > 0)
    seal_s = math.ceil(len(shards) / (SEALERS_PER_NODE * num_nodes)) * SEAL_S_PER_SHARD
    return Work(units, replica_s / sum(units), batches_at_once, seal_s=seal_s)


def _spread(total: int, sizes: list[int]) -> list[int]:
    """`total` in proportion to `sizes`, in whole numbers."""
    ends, whole, done = [], sum(sizes), 0
    for size in sizes:
        done += size
        ends.append(total * done // whole)
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]
