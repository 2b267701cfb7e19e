"""Records of one stage -> records of the next, through a pool of replicas on Ray Data.

Every replica writes each of its batches as one Parquet file named after the ids in it: a batch that Ray
repeats after a failure replaces its own file, and nothing but counts passes the driver. Records already
written are left out, so the same command goes on where one was interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cotray.config import PoolConfig
from cotray.data.store import RunFolder, fingerprint
from cotray.errors import EngineDied
from cotray.records import Record
from cotray.stages.progress import progress

Process = Callable[..., Sequence[Record]]
"""`process(records, on_finished=callback)` -> `PoolStage.num_per_record` records each, in order."""


@dataclass(frozen=True)
class PoolStage:
    """From which records to which, made by what. `build` runs once per replica and returns a Process."""

    source: str
    target: str
    source_record: type[Record]
    target_record: type[Record]
    build: Callable[[], Process]
    is_wanted: Callable[[pa.Table], Any]
    """Which rows of a source table to process, as a boolean array; rows have `id` and `kind`."""
    num_per_record: int = 1
    num_batches_at_once: int = 1
    """Per replica; above 1, `process` is called from several threads."""
    failed: Callable[[Any, str, int], Sequence[Record]] | None = None
    """(record, error, attempts) -> what to write for a record that cannot be made; None = the job fails."""
    environment: dict[str, str] = field(default_factory=dict)
    """Environment variables of the replicas' processes."""


def run_pool(
    folder: RunFolder, stage: PoolStage, *, total: int, pool: PoolConfig, batch_size: int, label: str
) -> None:
    """Process every wanted record that is not written yet; `total` of them are wanted in all."""
    import ray.data

    done = finished_keys(folder, stage.target)
    num_each = stage.num_per_record
    with progress(label, total=total * num_each, done=len(done) * num_each) as line:
        if len(done) >= total:
            return
        dataset = (
            ray.data.read_parquet(folder.parquet_files(stage.source), filesystem=folder.fs)
            .map_batches(_Waiting(stage, done), batch_format="pyarrow", batch_size=None)
            .repartition(target_num_rows_per_block=batch_size)
            .map_batches(
                _Replica,
                fn_constructor_args=(folder.root, stage, line.counter, pool.max_attempts),
                batch_format="pyarrow",
                batch_size=batch_size,
                compute=ray.data.ActorPoolStrategy(
                    min_size=pool.replicas.min,
                    max_size=pool.replicas.max,
                    max_concurrent_calls_per_actor=stage.num_batches_at_once,
                    enable_true_multi_threading=stage.num_batches_at_once > 1,
                ),
                num_cpus=pool.num_cpus,
                num_gpus=pool.num_gpus,
                runtime_env={"env_vars": stage.environment} if stage.environment else None,
            )
        )
        for _ in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            pass


def finished_keys(folder: RunFolder, stage: str) -> set[str]:
    """`kind/id` of every record a stage has written."""
    keys: set[str] = set()
    for path in folder.parquet_files(stage):
        table = pq.read_table(path, columns=["kind", "id"], filesystem=folder.fs)
        keys.update(_keys(table).to_pylist())
    return keys


class _Waiting:
    """Keeps the wanted rows that are not written yet."""

    def __init__(self, stage: PoolStage, done: set[str]) -> None:
        self.is_wanted = stage.is_wanted
        self.done = pa.array(sorted(done), pa.string())

    def __call__(self, batch: pa.Table) -> pa.Table:
        is_done = pc.is_in(_keys(batch), self.done)  # type: ignore[attr-defined]
        return batch.filter(pc.and_not(self.is_wanted(batch), is_done))  # type: ignore[attr-defined]


class _Replica:
    """One model on one worker; it passes on the number of rows it has written."""

    def __init__(self, run_dir: str, stage: PoolStage, counter: Any, max_attempts: int) -> None:
        self.folder = RunFolder(run_dir)
        self.max_attempts = max_attempts
        self.stage = stage
        self.counter = counter
        self.process = stage.build()

    def __call__(self, batch: pa.Table) -> pa.Table:
        records = [self.stage.source_record.from_row(row) for row in batch.to_pylist()]
        if records:
            made = self._process(records)
            assert len(made) == len(records) * self.stage.num_per_record, (len(made), len(records))
            name = fingerprint(sorted(_keys(batch).to_pylist()))
            path = f"{self.stage.target}/part-{name}.parquet"
            self.folder.write_records(path, made, self.stage.target_record)
        return pa.table({"rows": [len(records)]})

    def _process(self, records: Sequence[Record]) -> list[Record]:
        try:
            return self._try(records)
        except Exception:
            if self.stage.failed is None:
                raise
        # One bad row must not take its batch with it.
        return [made for record in records for made in self._process_alone(record)]

    def _process_alone(self, record: Record) -> Sequence[Record]:
        """What failed with its batch is tried alone, until it has had `max_attempts` in all."""
        problem = "failed together with its batch"
        for _ in range(1, self.max_attempts):
            try:
                return self._try([record])
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
        assert self.stage.failed is not None
        self.counter.add.remote(self.stage.num_per_record)
        return self.stage.failed(record, problem, self.max_attempts)

    def _try(self, records: Sequence[Record]) -> list[Record]:
        num_finished = 0

        def count(_: Any) -> None:
            nonlocal num_finished
            num_finished += 1
            self.counter.add.remote(1)

        try:
            return list(self.process(records, on_finished=count))
        except EngineDied as problem:
            # A retry must not come back to this process: without it Ray starts another replica.
            print(f"replica exits, its engine is gone: {problem}", file=sys.stderr, flush=True)
            os._exit(1)
        except Exception:
            self.counter.add.remote(-num_finished)
            raise


def _keys(table: pa.Table) -> Any:
    return pc.binary_join_element_wise(table["kind"], table["id"], "/")  # type: ignore[attr-defined]
