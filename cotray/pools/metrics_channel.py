"""Metrics from a training worker to the driver while the driver waits for Ray Train."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

OnMetrics = Callable[[dict[str, float]], None]

_POLL_S = 0.1


class MetricsChannel:
    """Actor between rank 0, which pushes, and the driver, which drains."""

    def __init__(self):
        self.rows: list[dict[str, float]] = []

    def push(self, metrics: dict[str, float]) -> None:
        if metrics:
            self.rows.append(metrics)

    def drain(self) -> list[dict[str, float]]:
        rows, self.rows = self.rows, []
        return rows


@contextlib.contextmanager
def metrics_channel(on_metrics: OnMetrics) -> Iterator[Any]:
    """An actor handle; what is pushed to it reaches `on_metrics` while the block runs.

    An exception of `on_metrics` ends the forwarding and is raised at the end of the block.
    """
    import ray

    relay = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(MetricsChannel).remote()
    is_over = threading.Event()
    failures: list[Exception] = []

    def forward() -> None:
        try:
            was_over = False
            while not was_over:
                was_over = is_over.wait(_POLL_S)
                for metrics in ray.get(relay.drain.remote()):
                    on_metrics(metrics)
        except Exception as error:  # raised below, in the thread that can be told
            failures.append(error)

    thread = threading.Thread(target=forward, name="cotray-metrics", daemon=True)
    thread.start()
    try:
        yield relay
    finally:
        is_over.set()
        thread.join()
        ray.kill(relay)  # pyright: ignore[reportArgumentType]
    if failures:
        raise failures[0]


@contextlib.contextmanager
def sigint_restored() -> Iterator[None]:
    """Ray Train installs a SIGINT handler that outlives the run."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
