"""Records of one stage -> records of the next, through pools of replicas on Ray Data.

Rows are read, made and written by Ray's workers; the driver sees file names and counts. Ray Data's own row
checkpointing (CheckpointConfig) is not used: it skips rows by one id column without regard to the
configuration they were made under, loads every finished id into each of its filter actors, works for read
-> write pipelines alone, and leaves order, number and double rows of the output's files as the crashes made
them. Shards (cotray/data/shards.py) keep those promises instead.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from cotray.config import Pool, PoolConfig
from cotray.data.shards import Shard
from cotray.data.storage import patiently
from cotray.errors import StageError
from cotray.stages.progress import Watch, watch
from cotray.stages.replica import PoolStage, Replica, counts_of

READERS = 4
"""Shards read or sealed at a time; that work takes no CPU of Ray's, so replicas cannot starve it."""
INIT_DEATHS = 5
"""Replicas in a row that may die while they start, of lost nodes or lack of memory."""


def run_pool(
    stage: PoolStage, *, total: int, config: PoolConfig, batch_size: int, label: str
) -> Counter[str]:
    """Process every wanted row that is not written yet, of `total` in all, and seal the shards.

    Returns the counts of all rows there are (see `counts_of`) and, of this run, seconds, replica_starts,
    retries and the number of rows made. Raises StageError on a stall, and if rows are
    missing at the end although the stage was not stopped by `max_dead`.
    """
    snapshot = stage.shards.snapshot()
    total *= stage.shards.num_per_record
    done = min(total, stage.shards.num_finished(snapshot))
    with watch(label, stage.shards, total=total, done=done, stall_timeout_s=config.stall_timeout_s) as line:
        is_stopped = done < total and not _stream(stage, snapshot, config, batch_size, total, line)
        counts = _seal(stage, [shard.name for shard in snapshot])
    if counts["missing"] and not is_stopped:
        raise StageError(
            f"{stage.shards.folder.uri(stage.shards.target)}: {counts['missing']} rows were not written; "
            "the same command makes them"
        )
    if not counts["missing"]:
        stage.shards.close()
    return counts + line.counts


def _stream(
    stage: PoolStage, snapshot: Sequence[Shard], config: PoolConfig, batch_size: int, total: int, line: Watch
) -> bool:
    """Whether every row was made; False if so many failed that the stage gave up."""
    import ray.data

    from cotray.stages.guard import guard

    # Few rows are shared evenly.
    batch_size = max(1, min(batch_size, math.ceil(total / config.max_replicas)))
    concurrency = stage.num_batches_at_once
    dataset = (
        ray.data.from_items([shard.name for shard in snapshot], override_num_blocks=len(snapshot))
        .map_batches(
            partial(_read, stage, {shard.name: shard for shard in snapshot}),
            batch_format="pyarrow",
            batch_size=1,
            num_cpus=0,
            compute=ray.data.TaskPoolStrategy(size=min(READERS, len(snapshot))),
        )
        .repartition(target_num_rows_per_block=batch_size)
        .map_batches(
            Replica,
            fn_constructor_args=(stage, line.monitor, config.max_attempts),
            batch_format="pyarrow",
            batch_size=batch_size,
            compute=_strategy(config, concurrency),
            ray_remote_args_fn=_turns(config.pools) if config.pools else None,
            runtime_env={"env_vars": stage.environment} if stage.environment else None,
            **_arguments(config.all_pools[0]),
        )
    )
    guard(dataset.context, line)
    dataset.context.max_consecutive_actor_init_deaths = INIT_DEATHS
    num_dead = 0
    for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
        num_dead += sum(table["dead"].to_pylist())  # pyright: ignore[reportAttributeAccessIssue]
        if stage.max_dead is not None and num_dead > stage.max_dead:
            return False
    return True


def _strategy(config: PoolConfig, concurrency: int) -> Any:
    import ray.data

    return ray.data.ActorPoolStrategy(
        min_size=sum(pool.replicas.min for pool in config.all_pools),
        max_size=config.max_replicas,
        max_concurrent_calls_per_actor=concurrency,
        enable_true_multi_threading=concurrency > 1,
    )


def _arguments(pool: Pool) -> dict[str, Any]:
    return {"num_cpus": pool.num_cpus, "num_gpus": pool.num_gpus, "label_selector": pool.label_selector}


def _turns(pools: Sequence[Pool]) -> Callable[[], dict[str, Any]]:
    """Ray's arguments for each new replica: pools take turns, each as often as its size allows, and
    `replicas.min` of each come first."""
    first = [pool for pool in pools for _ in range(pool.replicas.min)]
    rest = [pool for pool in pools for _ in range(pool.replicas.max - pool.replicas.min)]
    turns = itertools.cycle([*first, *rest])
    return lambda: _arguments(next(turns))


def _read(stage: PoolStage, snapshot: dict[str, Shard], names: pa.Table) -> Iterator[pa.Table]:
    """What is waiting of each shard named in column `item`."""
    for name in names["item"].to_pylist():
        yield patiently(partial(stage.shards.waiting, snapshot[name]))


def _seal(stage: PoolStage, names: Sequence[str]) -> Counter[str]:
    """Seal every shard on the cluster and add up its counts."""
    import ray

    task = ray.remote(num_cpus=0, max_retries=-1)(_seal_shard)
    stage_ref = ray.put(stage)
    counts, running, names_left = Counter[str](), [], iter(names)
    while True:
        for name in itertools.islice(names_left, READERS - len(running)):
            running.append(task.remote(stage_ref, name))
        if not running:
            return counts
        finished, running = ray.wait(running)
        counts.update(ray.get(finished[0]))


def _seal_shard(stage: PoolStage, name: str) -> Counter[str]:
    shards = stage.shards
    table, num_missing = patiently(partial(shards.seal, name))
    rows = [shards.record.from_row(row) for row in table.to_pylist()]
    if stage.dead_letter is not None:
        letters = [stage.dead_letter(row) for row in rows if getattr(row, "error", "")]
        patiently(partial(shards.folder.write_dead_letters, shards.target, letters, shard=name))
    return counts_of(rows) + Counter(missing=num_missing)
