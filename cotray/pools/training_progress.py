"""What a training shows while it runs: a line on the terminal, gauges, metrics.jsonl, and trackers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from tqdm import tqdm

from cotray.config import TrainingConfig
from cotray.errors import DataError
from cotray.pools.metrics_channel import OnMetrics
from cotray.pools.progress import METRICS_S, progress_bar
from cotray.pools.prometheus_metrics import TRAINING_GAUGES, gauge
from cotray.storage.run_folder import RunFolder
from cotray.tracking.tracking import Feed, feed

T = TypeVar("T")
ROW_S = 1.0
"""At least between two steps that metrics.jsonl has."""


def training_progress(
    work: Callable[[OnMetrics], T],
    label: str,
    folder: RunFolder,
    stage: str,
    training: TrainingConfig,
    settings: Mapping[str, Any],
    *,
    until_ready: Callable[[tqdm], None] | None = None,
) -> T:
    """Call `work` with a callback that shows each step of the model in `stage` of the folder.

    Trackers also get the stage's `settings`. `until_ready` is called before, and shows on the line what it
    waits for.
    """
    of_run = {**settings, "training": training.model_dump(mode="json")}
    with (
        feed(training.tracking, folder, stage, of_run) as tracked,
        progress_bar(label, total=None, unit="step") as bar,
    ):
        rows = _Rows(folder, stage, tracked)
        if until_ready is not None:
            until_ready(bar)

        def on_metrics(metrics: dict[str, Any]) -> None:
            bar.total = int(metrics.get("num_steps", bar.total or 0)) or None
            bar.set_postfix({"loss": f"{metrics['loss']:.3f}"} if "loss" in metrics else {}, refresh=False)
            # Draws as often as the bar's `mininterval` says: in a log every few seconds, not every step.
            bar.update(int(metrics.get("step", bar.n)) - bar.n)
            gauge(stage, {name: metrics[name] for name in TRAINING_GAUGES if name in metrics})
            rows.add(metrics)

        try:
            return work(on_metrics)
        finally:
            rows.flush()


class _Rows:
    """Rows for metrics.jsonl, written together, because on S3 the whole file is written anew."""

    def __init__(self, folder: RunFolder, stage: str, tracked: Feed) -> None:
        self.folder, self.stage, self.tracked = folder, stage, tracked
        self.rows = list[dict[str, Any]]()
        self.added = self.flushed = time.monotonic() - METRICS_S

    def add(self, metrics: dict[str, Any]) -> None:
        now = time.monotonic()
        if "dev_loss" in metrics or now - self.added >= ROW_S:
            self.added = now
            self.rows.append({"stage": self.stage, **metrics})
            self.tracked.add(metrics)
        if now - self.flushed >= METRICS_S:
            self.flush()

    def flush(self) -> None:
        if not self.rows:
            return
        # A busy storage costs lines of metrics, not the training.
        with suppress(DataError):
            self.folder.append_metrics(self.rows)
        self.rows, self.flushed = [], time.monotonic()
