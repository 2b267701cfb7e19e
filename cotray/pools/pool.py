"""Records of one stage -> records of the next, through pools of replicas on Ray Data.

Replicas read, make and write rows; the driver hands out shares of shards, and sees file names and counts.
Ray Data's own row checkpointing (CheckpointConfig) is not used: it skips rows by one id column without
regard to the configuration they were made under, loads every finished id into each of its filter actors,
works for read -> write pipelines alone, and leaves order, number and double rows of the output's files as
the crashes made them. Shards (cotray/storage/shards.py) keep those promises instead.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from cotray.config.base import Pool, PoolConfig
from cotray.errors import StageError
from cotray.pools.failure_causes import causes_of, keep_most_common
from cotray.pools.progress import ReplicasStuck, StageWatch, watch
from cotray.pools.ray_cluster import num_nodes
from cotray.pools.replica import PoolStage, Replica, counts_of
from cotray.storage.filesystems import with_retries
from cotray.storage.manifest import FileEntry, Work
from cotray.storage.shards import SEALERS_PER_NODE, Shard
from cotray.storage.work_units import batch_size_for, units_of

INIT_DEATHS = 5
"""Replicas in a row that may die while they start, of lost nodes or lack of memory."""


class PoolResult(NamedTuple):
    """What a pool made. `counts`: of all rows there are (see `counts_of`) and, of this run, seconds,
    replica_starts, retries and the number of rows made."""

    counts: Counter[str]
    files: list[FileEntry]
    work: Work | None = None


def run_pool(stage: PoolStage, *, total: int, config: PoolConfig, batch_size: int, label: str) -> PoolResult:
    """Process every wanted row that is not written yet, of `total` in all, and seal the shards.

    Raises StageError on a stall, if too many rows failed (see `check_errors`), and if rows are missing at
    the end.
    """
    shards = stage.shards
    total *= shards.num_per_record
    snapshot = shards.snapshot()
    done = min(total, shards.num_finished(snapshot))
    with watch(label, shards, config, total=total, done=done) as line:
        todo = snapshot if done < total else None
        num_missing = None
        while True:
            while todo is not None:
                is_stuck = _stream(stage, todo, config, batch_size, line)
                todo = shards.snapshot() if is_stuck else None
            counts, files, _ = _seal(stage, with_retries(shards.snapshot))
            check_errors(stage, counts)
            # What names of batches count may overlap; what is missing decides whether there is work.
            if counts["missing"] in (0, num_missing):
                break
            num_missing, todo = counts["missing"], shards.snapshot()
    if counts["missing"]:
        raise StageError(
            f"{shards.folder.uri(shards.target)}: {counts['missing']} rows were not written; "
            "the same command makes them"
        )
    with_retries(shards.close)
    return PoolResult(counts + line.counts, files, line.work)


def check_errors(stage: PoolStage, counts: Counter[str]) -> None:
    """Raises StageError, with the causes counted, if so many rows failed that the stage is not done.

    counts: of all rows there are; when the stage was stopped early, of those made until then.
    """
    num_rows, num_dead = counts["rows"], counts["dead_letters"]
    if num_dead > stage.max_error_rate * num_rows or num_dead == num_rows > 0:
        causes = "; ".join(f"{count} x {cause}" for cause, count in causes_of(counts).most_common(3))
        folder = stage.shards.folder
        raise StageError(
            f"{folder.uri(stage.shards.target)}: {num_dead} of {num_rows} rows failed ({causes}). Each is "
            f"in {folder.uri('dead_letter')}; max_error_rate={stage.max_error_rate:g} allows fewer. The same "
            "command tries them again"
        )


def _stream(
    stage: PoolStage, snapshot: Sequence[Shard], config: PoolConfig, batch_size: int, line: StageWatch
) -> bool:
    """Make every waiting row, unless so many fail that the stage gives up.

    Returns whether it ended because work is stuck with replicas that do not come back.
    """
    import ray.data

    from cotray.pools.stall_watchdog import watch_pipeline

    batch_size = batch_size_for(line.total, batch_size, config.max_replicas)
    # One call reads or writes while `num_batches_at_once` others are with the model.
    concurrency = stage.num_batches_at_once + 1
    cut = units_of(stage.shards.source_sizes(), batch_size, concurrency * config.max_replicas)
    units = [unit._asdict() for unit in cut]
    num_replicas = max(1, min(config.max_replicas, len(units)))
    # The one way to give replicas of one pool different nodes; Ray 2.64 is to have another.
    warnings.filterwarnings("ignore", message="`ray_remote_args_fn` is deprecated")
    dataset = ray.data.from_items(units, override_num_blocks=len(units)).map_batches(
        Replica,
        fn_constructor_args=(stage, tuple(snapshot), batch_size, line.monitor, config.max_attempts),
        batch_format="pyarrow",
        batch_size=1,
        # All replicas are asked for at once, and the first begins alone: Ray Data's own growth, from GPUs
        # that are there to twice as many, took 53 s to three nodes where this took 25.
        compute=ray.data.ActorPoolStrategy(
            min_size=min(sum(pool.replicas.min for pool in config.all_pools), num_replicas),
            initial_size=num_replicas,
            max_size=num_replicas,
            max_concurrent_calls_per_actor=concurrency,
            max_tasks_in_flight_per_actor=concurrency,
            enable_true_multi_threading=True,
        ),
        ray_remote_args_fn=_turns(config.pools) if config.pools else None,
        runtime_env={"env_vars": stage.environment} if stage.environment else None,
        **_arguments(config.all_pools[0]),
    )
    watch_pipeline(dataset.context, line)
    dataset.context.max_consecutive_actor_init_deaths = INIT_DEATHS
    num_dead, max_dead = 0, math.floor(stage.max_error_rate * line.total)
    try:
        for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            num_dead += sum(table["dead"].to_pylist())  # pyright: ignore[reportAttributeAccessIssue]
            if num_dead > max_dead:
                break
    except ReplicasStuck:
        return True
    return False


def _arguments(pool: Pool) -> dict[str, Any]:
    return {"num_cpus": pool.num_cpus, "num_gpus": pool.num_gpus, "label_selector": pool.label_selector}


def _turns(pools: Sequence[Pool]) -> Callable[[], dict[str, Any]]:
    """Ray's arguments for each new replica: pools take turns, each as often as its size allows, and
    `replicas.min` of each come first."""
    first = [pool for pool in pools for _ in range(pool.replicas.min)]
    rest = [pool for pool in pools for _ in range(pool.replicas.max - pool.replicas.min)]
    turns = itertools.cycle([*first, *rest])
    return lambda: _arguments(next(turns))


def _seal(stage: PoolStage, snapshot: Sequence[Shard]) -> PoolResult:
    """Seal every shard on the cluster, and add up its counts."""
    import ray

    # It takes none of Ray's CPUs, so that it can always be placed.
    task = ray.remote(num_cpus=0, max_retries=-1)(_seal_shard)
    num_at_once = SEALERS_PER_NODE * num_nodes()
    shards, stage_ref = stage.shards, ray.put(stage)
    letters = with_retries(partial(shards.folder.dead_letters, shards.target))
    counts, files, running, left = Counter[str](), list[FileEntry](), [], iter(snapshot)
    while True:
        for shard in itertools.islice(left, num_at_once - len(running)):
            running.append(task.remote(stage_ref, shard, shard.name in letters))
        if not running:
            return PoolResult(counts, files)
        finished, running = ray.wait(running)
        of_shard, entry = ray.get(finished[0])
        counts.update(of_shard)
        keep_most_common(counts)
        files += [entry] if entry else []


def _seal_shard(stage: PoolStage, shard: Shard, has_letters: bool) -> tuple[Counter[str], FileEntry | None]:
    """`has_letters`: rows of the shard have failed before, and their dead letters are there."""
    shards = stage.shards
    table, num_missing, entry = with_retries(partial(shards.seal, shard))
    if stage.dead_letter is not None:
        failed = table.filter(pc.not_equal(table["error"], "")).to_pylist()  # type: ignore[attr-defined]
        letters = [stage.dead_letter(shards.record.from_row(row)) for row in failed]
        if letters or has_letters:
            with_retries(partial(shards.folder.write_dead_letters, shards.target, letters, shard=shard.name))
    rows = table.select(stage.counted).to_pylist() or [{}] * table.num_rows
    counts = counts_of(rows) + Counter(missing=num_missing)
    del table, rows
    pa.default_memory_pool().release_unused()
    return counts, entry
