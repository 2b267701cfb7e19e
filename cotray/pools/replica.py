"""One replica of a stage: a model on one worker, which takes batches of rows and writes what it makes."""

from __future__ import annotations

import os
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache, partial
from typing import Any

import pyarrow as pa

from cotray.config.references import hidden
from cotray.errors import ConfigError, CotrayError, EngineDied, Halted, StageError
from cotray.pools.failure_causes import keep_most_common, key_of
from cotray.pools.gathered_batches import GatheredBatches
from cotray.pools.monitor import BatchReport
from cotray.pools.prometheus_metrics import count
from cotray.records import Record
from cotray.storage.filesystems import with_retries
from cotray.storage.run_folder import DeadLetter
from cotray.storage.shards import Shard, Shards

Process = Callable[..., Sequence[Any]]
"""`process(records, on_finished=callback)` -> `Shards.num_per_record` records each, in order."""


@dataclass(frozen=True)
class PoolStage:
    """From which records to which, made by what. `build` runs once per replica and returns a Process."""

    shards: Shards
    source_record: type[Record]
    build: Callable[[], Process]
    num_batches_at_once: int = 1
    """Per replica; above 1, `process` is called from several threads."""
    failed: Callable[[Any, str, int], Sequence[Any]] | None = None
    """(record, error, attempts) -> what to write for a record that cannot be made; None = the job fails."""
    dead_letter: Callable[[Any], DeadLetter] | None = None
    """Of a target record with an error."""
    max_error_rate: float = 1.0
    """The stage fails if more than this share of its rows did, or all."""
    environment: dict[str, str] = field(default_factory=dict)
    """Environment variables of the replicas' processes."""

    @property
    def counted(self) -> list[str]:
        """Columns that `counts_of` reads, without those a target took over from its source."""
        taken_over = {column.name for column in fields(self.source_record)} - {"error"}
        new = {column.name for column in fields(self.shards.record)} - taken_over
        return [name for name in ("num_tokens", "splits", "stop_reason", "error") if name in new]


class Replica:
    """Ray Data's callable: a share of a shard in, the number of rows made and of dead ones out."""

    def __init__(
        self,
        stage: PoolStage,
        snapshot: Sequence[Shard],
        batch_size: int,
        monitor: Any,
        max_attempts: int,
    ) -> None:
        import ray

        self.stage, self.batch_size, self.max_attempts = stage, batch_size, max_attempts
        self.monitor = monitor
        self.snapshot = {shard.name: shard for shard in snapshot}
        self.waiting = lru_cache(maxsize=4)(self._waiting)
        self.model_is_free = threading.Semaphore(stage.num_batches_at_once)
        self.name = uuid.uuid4().hex[:8]
        self.node = ray.get_runtime_context().get_node_id()
        self.problem: CotrayError | None = None
        began = time.monotonic()
        monitor.loading.remote()
        try:
            self.process = stage.build()
        except CotrayError as problem:
            # Raised with the first batch: Ray starts an actor anew that fails here, which cannot help.
            self.problem = problem
            return
        monitor.started.remote(time.monotonic() - began)
        count(stage.shards.target, {"replica_starts": 1})

    def __call__(self, units: pa.Table) -> pa.Table:
        if self.problem is not None:
            raise self.problem
        counts = Counter[str]()
        for unit in units.to_pylist():
            table = self.waiting(unit["shard"])
            gathered = GatheredBatches(self.stage.shards, unit["shard"])
            try:
                for batch in range(unit["first"], unit["last"]):
                    rows = table.slice(batch * self.batch_size, self.batch_size).to_pylist()
                    if rows:
                        records = [self.stage.source_record.from_row(row) for row in rows]
                        counts += self._make(records, gathered)
            except Exception as problem:  # what is made stays, if a later batch ends the job
                try:
                    gathered.write()
                except Exception as error:
                    problem.add_note(f"and what was made before was not written: {error}")
                raise
            gathered.write()
        return pa.table({"rows": [counts["rows"]], "dead": [counts["dead_letters"]]})

    def _waiting(self, shard: str) -> pa.Table:
        return with_retries(partial(self.stage.shards.waiting, self.snapshot[shard]))

    def _make(self, records: Sequence[Any], gathered: GatheredBatches) -> Counter[str]:
        """Make the rows of one batch, and write them with those of others."""
        with self.model_is_free:
            report = self._begin(records)
            if report.is_finished:
                return Counter()
            if report.deaths:  # they must not be lost with this one
                gathered.write()
            # A replica died over this batch too often for chance: one of its rows may be the cause.
            is_suspect = report.deaths >= self.max_attempts - 1
            if is_suspect:
                made = self._alone(records, gathered.shard, report)
            else:
                made = self._together(records, report)
        assert len(made) == len(records) * self.stage.shards.num_per_record, (len(made), len(records))
        counted = self.stage.counted
        counts = counts_of([{name: getattr(row, name) for name in counted} for row in made])
        counts["retries"] += report.deaths
        if is_suspect:
            report.end(counts)
        else:
            gathered.add(made, report, counts)
        return counts

    def _begin(self, records: Sequence[Any]) -> BatchReport:
        ids = [record.id for record in records]
        target = self.stage.shards.target
        return BatchReport(
            target, self.monitor, self.stage.shards.batch_key(records), self.name, self.node, ids
        )

    def _together(self, records: Sequence[Any], report: BatchReport) -> list[Any]:
        try:
            return self._try(records, report)
        except (ConfigError, Halted):  # no row can be made
            raise
        except Exception:
            if self.stage.failed is None:
                raise
        # One bad row must not take its batch with it.
        return [made for record in records for made in self._retry(record, 1, report)]

    def _retry(self, record: Any, num_attempts: int, report: BatchReport) -> Sequence[Any]:
        """A row that failed with its batch, tried alone until it has had `max_attempts` in all."""
        problem = "failed together with its batch"
        while num_attempts < self.max_attempts:
            num_attempts += 1
            report.add(Counter(retries=1))
            try:
                return self._try([record], report)
            except (ConfigError, Halted):
                raise
            except Exception as error:
                if self.stage.failed is None:
                    raise
                problem = hidden(f"{type(error).__name__}: {error}")
        return self._give_up(record, problem, num_attempts, report)

    def _alone(self, records: Sequence[Any], shard: str, report: BatchReport) -> list[Any]:
        """Row by row, each written at once, so that a row that kills its replica is found and given up."""
        made: list[Any] = []
        for record in records:
            row = self._begin([record])
            if row.deaths:
                attempts = report.deaths
                problem = f"the replica died each of {attempts} times that it was made"
                rows = self._give_up(record, problem, attempts, report)
            else:
                rows = self._retry(record, self.max_attempts - 1, report)
            with_retries(partial(self.stage.shards.write, shard, rows))
            row.drop()
            made.extend(rows)
        return made

    def _give_up(self, record: Any, problem: str, attempts: int, report: BatchReport) -> Sequence[Any]:
        if self.stage.failed is None:
            raise StageError(f"{self.stage.shards.target}: {record.id}: {problem}")
        rows = self.stage.failed(record, problem, attempts)
        for _ in rows:
            report.row()
        return rows

    def _try(self, records: Sequence[Any], report: BatchReport) -> list[Any]:
        num_finished = 0

        def on_finished(_: int) -> None:
            nonlocal num_finished
            num_finished += 1
            report.row()

        try:
            return list(self.process(records, on_finished=on_finished))
        except EngineDied as problem:
            # A retry must not come back to this process: without it Ray starts another replica.
            print(f"replica exits, its engine is gone: {problem}", file=sys.stderr, flush=True)
            os._exit(1)
        except Exception:
            report.take_back(num_finished)
            raise


def counts_of(rows: Sequence[Mapping[str, Any]]) -> Counter[str]:
    """For the progress line, the metrics and the manifest.

    rows: each with what it has of the columns `PoolStage.counted`.
    """
    counts = Counter(rows=len(rows))
    for row in rows:
        counts["tokens"] += row.get("num_tokens", 0)
        counts["pair_splits"] += row.get("splits", 0)
        if stop_reason := row.get("stop_reason"):
            counts[f"stop/{stop_reason}"] += 1
        if error := row.get("error"):
            counts["dead_letters"] += 1
            counts[key_of(error)] += 1
    keep_most_common(counts)
    return counts
