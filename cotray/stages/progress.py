"""One progress line with rate and ETA, fed by replicas anywhere on the cluster."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from tqdm import tqdm

from cotray.stages.relay import OnMetrics

T = TypeVar("T")


class _Counter:
    """Runs as an actor: replicas add, the driver reads."""

    def __init__(self) -> None:
        self.done = 0
        self.notes: dict[str, Any] = {}

    def add(self, done: int, **notes: Any) -> None:
        self.done += done
        self.notes |= notes

    def read(self) -> tuple[int, dict[str, Any]]:
        return self.done, self.notes


class Progress:
    """`counter` is an actor handle: `counter.add.remote(1)` from any process moves the line."""

    def __init__(self, bar: tqdm, counter: Any) -> None:
        self.bar = bar
        self.counter = counter

    def refresh(self) -> None:
        import ray

        done, notes = ray.get(self.counter.read.remote())
        self.bar.n = done
        self.bar.set_postfix(notes, refresh=False)
        self.bar.refresh()


@contextmanager
def progress(label: str, *, total: int, done: int = 0, unit: str = "row") -> Iterator[Progress]:
    """Draw the line until the block ends; on a terminal every half second, in a log every 10 s."""
    import ray

    counter = ray.remote(num_cpus=0)(_Counter).remote()
    counter.add.remote(done)
    with progress_bar(label, total=total, done=done, unit=unit) as bar:
        line, stop = Progress(bar, counter), threading.Event()

        def draw() -> None:
            while not stop.wait(0.5 if sys.stderr.isatty() else 10):
                line.refresh()

        thread = threading.Thread(target=draw, daemon=True)
        thread.start()
        try:
            yield line
        finally:
            stop.set()
            thread.join()
            line.refresh()


def progress_bar(label: str, *, total: int | None, done: int = 0, unit: str = "row") -> tqdm:
    """A line of the same look for work that happens in this process."""
    return tqdm(
        total=total,
        initial=done,
        desc=f"{label:<42}",
        unit=unit,
        dynamic_ncols=True,
        mininterval=0.5 if sys.stderr.isatty() else 10,
        bar_format="{desc} {percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt} "
        "[{elapsed}<{remaining}, {rate_fmt}{postfix}]",
    )


def training_progress(work: Callable[[OnMetrics], T], label: str) -> T:
    """Call `work` with a callback that draws its steps, loss and ETA."""
    with progress_bar(label, total=None, unit="step") as bar:

        def on_metrics(metrics: dict[str, Any]) -> None:
            bar.total = int(metrics.get("num_steps", bar.total or 0)) or None
            bar.n = int(metrics.get("step", bar.n))
            bar.set_postfix({"loss": f"{metrics['loss']:.3f}"} if "loss" in metrics else {}, refresh=False)
            bar.refresh()

        return work(on_metrics)
