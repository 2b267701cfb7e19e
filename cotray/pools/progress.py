"""One progress line per stage: done/total, rate, ETA, replicas, errors; and the watch that ends a stall."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tqdm import tqdm

from cotray.config import PoolConfig
from cotray.errors import DataError, StageError
from cotray.pools.monitor import Snapshot, start_monitor
from cotray.pools.prometheus_metrics import gauge
from cotray.pools.ray_cluster import num_nodes
from cotray.storage.manifest import Work
from cotray.storage.shards import Shards

POLL_S = 0.5
LINE_S = 10
"""Between two lines in a log; on a terminal the line follows every poll."""
METRICS_S = 60
"""Between two rows of metrics.jsonl."""
STUCK_S = 60
"""Nothing finishes and all work is with replicas that are being restarted: for so long, or twice as long as
a model takes to load, before their work is given to new replicas."""


class ReplicasStuck(Exception):
    """Work is bound to replicas whose node does not come back: Ray Data gives it to no other."""


class StageWatch:
    """The driver's view of a stage: it polls the monitor, draws the line, and notices a stall."""

    def __init__(self, bar: tqdm, shards: Shards, config: PoolConfig, *, total: int, done: int) -> None:
        self.bar, self.shards, self.config = bar, shards, config
        self.total, self.done_before = total, done
        self.monitor = start_monitor()
        self.replicas: tuple[int, int] = (0, 0)
        """Running, and starting or waiting for a node."""
        self.is_waiting = False
        """All that is left to do is with replicas that Ray is restarting."""
        self.failure: StageError | ReplicasStuck | None = None
        self.snapshot: Snapshot | None = None
        self.started = self.moved = self.drawn = self.noted = time.monotonic()
        self.state: Any = None

    def poll(self, *, is_last: bool = False) -> None:
        import ray
        from ray.exceptions import RayError

        try:
            snapshot: Snapshot = ray.get(self.monitor.read.remote(), timeout=30)
        except RayError:
            return
        now = time.monotonic()
        self.snapshot = snapshot
        state = (snapshot.rows, snapshot.replica_starts, self.replicas[0], num_nodes())
        if state != self.state:
            self.state, self.moved = state, now
        elif now - self.moved > self.config.stall_timeout_s and not is_last:
            self.failure = StageError(self._stall())
        elif self.is_waiting and now - self.moved > max(STUCK_S, 2 * snapshot.load_s):
            self.failure = ReplicasStuck()
        if is_last or sys.stderr.isatty() or now - self.drawn > LINE_S:
            self.drawn = now
            self._draw(snapshot)
        if is_last or now - self.noted > METRICS_S:
            self.noted = now
            self._note(snapshot)

    @property
    def done(self) -> int:
        return min(self.total, self.done_before + (self.snapshot.rows if self.snapshot else 0))

    @property
    def counts(self) -> Counter[str]:
        """Of this run: seconds, replica_starts, retries, and the number of rows made."""
        counts = Counter(seconds=round(time.monotonic() - self.started))
        if self.snapshot is not None:
            counts["replica_starts"] = self.snapshot.replica_starts
            counts["retries"] = self.snapshot.counts["retries"]
            counts["made"] = self.snapshot.counts["rows"]
        return counts

    @property
    def work(self) -> Work | None:
        return self.snapshot.work if self.snapshot else None

    def _draw(self, snapshot: Snapshot) -> None:
        running, starting = self.replicas
        notes = {"replicas": f"{running}+{starting}" if starting else running}
        notes |= {"errors": snapshot.counts["dead_letters"]}
        if snapshot.counts["retries"]:
            notes |= {"retries": snapshot.counts["retries"]}
        if not running and starting:
            notes |= {"loading": "a model"} if snapshot.is_loading else {"waiting for": self._needs()}
        self.bar.n = self.done
        self.bar.set_postfix(notes, refresh=False)
        self.bar.refresh()
        gauge(self.shards.target, {"queue_depth": self.total - self.done, "replicas": running})

    def _note(self, snapshot: Snapshot) -> None:
        names = ("tokens", "retries", "dead_letters", "pair_splits")
        row = {
            "stage": self.shards.target,
            "seconds": round(time.monotonic() - self.started, 1),
            "rows": self.done,
            "replicas": self.replicas[0],
            "replica_starts": snapshot.replica_starts,
        }
        # A busy storage costs a line of metrics, not the watch.
        with suppress(DataError):
            self.shards.folder.append_metrics([row | {name: snapshot.counts[name] for name in names}])

    def _stall(self) -> str:
        import ray

        running, starting = self.replicas
        has = [
            f"{n:g} {kind}" for kind, n in sorted(ray.cluster_resources().items()) if kind in ("CPU", "GPU")
        ]
        work = "; ".join(self.snapshot.under_way[:5]) if self.snapshot else ""
        return (
            f"{self.shards.target}: no row finished for {self.config.stall_timeout_s:g} s (stall_timeout_s), "
            f"{self.done} of {self.total} done. Replicas: {running} running, {starting} starting or waiting "
            f"for {self._needs()}; the cluster has {' and '.join(has)} in all. "
            f"At work: {work or 'nothing'}. "
            "The same command goes on from here"
        )

    def _needs(self) -> str:
        """What a node must have for a replica to start on it."""
        kinds = [
            " ".join(
                [
                    f"{pool.num_cpus:g} CPU" + (f" and {pool.num_gpus:g} GPU" if pool.num_gpus else ""),
                    *(f"{key}={value}" for key, value in pool.label_selector.items()),
                ]
            )
            for pool in self.config.all_pools
        ]
        return f"a node with {' or '.join(kinds)}"


@contextmanager
def watch(label: str, shards: Shards, config: PoolConfig, *, total: int, done: int) -> Iterator[StageWatch]:
    """Watches the stage until the block ends."""
    with progress_bar(label, total=total, done=done) as bar:
        line = StageWatch(bar, shards, config, total=total, done=done)
        stop = threading.Event()

        def poll() -> None:
            while not stop.wait(POLL_S):
                line.poll()

        thread = threading.Thread(target=poll, name="cotray-watch", daemon=True)
        thread.start()
        try:
            yield line
        finally:
            stop.set()
            thread.join()
            line.poll(is_last=True)


def progress_bar(label: str, *, total: int | None, done: int = 0, unit: str = "row") -> tqdm:
    """A line of the same look for work that happens in this process."""
    return tqdm(
        total=total,
        initial=done,
        desc=f"{label:<42}",
        unit=unit,
        dynamic_ncols=True,
        mininterval=0.5 if sys.stderr.isatty() else LINE_S,
        bar_format="{desc} {percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt} "
        "[{elapsed}<{remaining}, {rate_fmt}{postfix}]",
    )
