"""What the replicas of one stage are doing: an actor that they tell and the driver asks.

It runs on the driver's node, so it is lost only together with the driver. A replica that dies takes back what
it had reported of its unfinished batch, because whoever gets the batch next begins it again.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cotray.pools.failure_causes import keep_most_common
from cotray.pools.prometheus_metrics import count
from cotray.storage.manifest import Work

SHOWN_IDS = 3
FLUSH_S = 0.5


@dataclass
class Attempt:
    """One replica at work on one batch; `began` is in the monitor's monotonic seconds."""

    replica: str
    node: str
    ids: list[str]
    began: float
    rows: int = 0
    is_made: bool = False
    """Of rows that are not written yet: if the replica dies now, it was not over this batch."""


@dataclass(frozen=True)
class Snapshot:
    """`counts` are of finished batches (rows, tokens, splits, retries, dead, cause/...); `rows` includes
    what is reported of those under way."""

    rows: int
    counts: Counter[str]
    replica_starts: int
    load_s: float
    """The longest a model took to load."""
    is_loading: bool
    """A replica has a node and is loading its model."""
    under_way: list[str]
    work: Work | None
    """From the first batch that began to the last that was written; None before."""


@dataclass
class Monitor:
    """The actor's class; its methods are called through Ray."""

    counts: Counter[str] = field(default_factory=Counter)
    attempts: dict[str, Attempt] = field(default_factory=dict)
    deaths: Counter[str] = field(default_factory=Counter)
    loads_begun: int = 0
    replica_starts: int = 0
    load_s: float = 0.0
    finished: set[str] = field(default_factory=set)
    first_began: float | None = None
    last_ended: float | None = None

    def loading(self) -> None:
        self.loads_begun += 1

    def started(self, load_s: float) -> None:
        self.replica_starts += 1
        self.load_s = max(self.load_s, load_s)

    def begin(self, batch: str, replica: str, node: str, ids: Sequence[str]) -> int | None:
        """How often a replica died over this batch, while the node it was on lived on; None if it is done."""
        if batch in self.finished:
            return None
        self.first_began = self.first_began or time.time()
        earlier = self.attempts.get(batch)
        if earlier and not earlier.is_made and earlier.replica != replica and _is_alive(earlier.node):
            self.deaths[batch] += 1
        shown = [*ids[:SHOWN_IDS], *(["..."] if len(ids) > SHOWN_IDS else [])]
        self.attempts[batch] = Attempt(replica, node, shown, time.monotonic())
        return self.deaths[batch]

    def progress(self, batch: str, rows: int) -> None:
        if batch in self.attempts:
            self.attempts[batch].rows = rows

    def made(self, batch: str, rows: int) -> None:
        if batch in self.attempts:
            self.attempts[batch].rows, self.attempts[batch].is_made = rows, True

    def end(self, batches: Sequence[str], counts: dict[str, int]) -> None:
        """They are written: if Ray asks for them again, as a result was lost, there is nothing to do."""
        for batch in batches:
            self.attempts.pop(batch, None)
        self.finished.update(batches)
        self.last_ended = time.time()
        self.add(counts)

    def drop(self, batch: str) -> None:
        self.attempts.pop(batch, None)

    def add(self, counts: dict[str, int]) -> None:
        self.counts.update(counts)
        keep_most_common(self.counts)

    def read(self) -> Snapshot:
        now = time.monotonic()
        under_way = [
            f"replica {a.replica} on {a.node[:8]}: {', '.join(a.ids)} since {now - a.began:.0f} s"
            for a in self.attempts.values()
            if not a.is_made
        ]
        rows = self.counts["rows"] + sum(a.rows for a in self.attempts.values())
        work = Work(self.first_began, self.last_ended) if self.first_began and self.last_ended else None
        return Snapshot(
            rows=rows,
            counts=self.counts.copy(),
            replica_starts=self.replica_starts,
            load_s=self.load_s,
            is_loading=self.loads_begun > self.replica_starts,
            under_way=sorted(under_way),
            work=work,
        )


def start_monitor() -> Any:
    """A handle of a new Monitor, on this process's node."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0)(Monitor).options(scheduling_strategy=here).remote()


class BatchReport:
    """A replica's report on one batch. `row` is cheap: at most two messages a second leave the replica."""

    def __init__(
        self, stage: str, monitor: Any, batch: str, replica: str, node: str, ids: Sequence[str]
    ) -> None:
        import ray

        self.stage, self.monitor, self.batch = stage, monitor, batch
        self.rows, self.sent_at = 0, time.monotonic()
        deaths: int | None = ray.get(monitor.begin.remote(batch, replica, node, ids))
        self.is_finished = deaths is None
        self.deaths = deaths or 0

    def row(self) -> None:
        self.rows += 1
        if time.monotonic() - self.sent_at > FLUSH_S:
            self.monitor.progress.remote(self.batch, self.rows)
            self.sent_at = time.monotonic()

    def take_back(self, rows: int) -> None:
        """So many rows reported are made again."""
        self.rows -= rows

    def add(self, counts: Counter[str]) -> None:
        """For the progress line, and for Prometheus."""
        self.monitor.add.remote(counts)
        count(self.stage, counts)

    def made(self) -> None:
        """All of its rows are there, and wait to be written together with others."""
        self.monitor.made.remote(self.batch, self.rows)

    def end(self, counts: Counter[str]) -> None:
        end_all([(self, counts)])

    def drop(self) -> None:
        """No batch after all, but a row of one."""
        self.monitor.drop.remote(self.batch)


def end_all(reports: Sequence[tuple[BatchReport, Counter[str]]]) -> None:
    """Batches of one replica are written, with what there is to count of each."""
    report = reports[0][0]
    total = sum((counts for _, counts in reports), Counter[str]())
    report.monitor.end.remote([each.batch for each, _ in reports], total)
    count(report.stage, total)


def _is_alive(node: str) -> bool:
    import ray

    return any(each["NodeID"] == node and each["Alive"] for each in ray.nodes())
