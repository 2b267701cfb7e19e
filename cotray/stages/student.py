"""train as a stage: rationales/ -> student/, with progress, dead letters and a manifest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TypeVar

from cotray.config import RunConfig
from cotray.data.store import DeadLetter, Manifest, RunFolder
from cotray.records import Rationale
from cotray.stages.progress import progress_bar
from cotray.stages.relay import OnMetrics

T = TypeVar("T")

# What does not change the weights (beyond rounding), so that it may differ when a run goes on.
PLACEMENT = {"num_workers", "num_cpus", "num_gpus", "max_failures", "micro_batch_size"}


def train(config: RunConfig, *, overwrite: bool = False, label: str = "train") -> Manifest:
    """Run the stage, or return its manifest if it is done."""
    folder = RunFolder(config.run_dir)
    rationales = folder.require("rationales", "generate")
    settings = config.student.model_dump(exclude={"training": PLACEMENT}) | {
        "seed": config.seed,
        "alpha": config.counterfactual_weight,
    }
    state = folder.begin("student", settings=settings, input=rationales.fingerprint, overwrite=overwrite)
    if state == "done":
        return folder.require("student", "train")
    from cotray.stages.train import train_student

    rows = list(folder.read_records("rationales", Rationale))
    report = with_progress(
        lambda on_metrics: train_student(rows, config, folder.uri("student"), on_metrics=on_metrics), label
    )
    folder.write_dead_letters(
        "student",
        [
            DeadLetter("student", e.id, f"longer than training.max_length ({e.kind})", e.source + e.target)
            for e in report.too_long
        ],
    )
    folder.append_metrics({f"train/{key}": value for key, value in row.items()} for row in report.fit.history)
    counts = {
        "factual": report.num_factual,
        "counterfactual": report.num_counterfactual,
        "dev": report.num_dev,
    }
    return folder.finish(
        Manifest(
            stage="student",
            settings=settings,
            input=rationales.fingerprint,
            num_in=len(rows),
            num_out=sum(counts.values()),
            num_dead=len(report.too_long),
            metrics=counts | {"skipped": report.num_skipped} | asdict(report.fit),
        )
    )


def with_progress(work: Callable[[OnMetrics], T], label: str) -> T:
    """Call `work` with a callback that draws steps, loss and ETA."""
    with progress_bar(label, total=None, unit="step") as bar:

        def on_metrics(metrics: dict[str, Any]) -> None:
            bar.total = int(metrics.get("num_steps", bar.total or 0)) or None
            bar.n = int(metrics.get("step", bar.n))
            bar.set_postfix({"loss": f"{metrics['loss']:.3f}"} if "loss" in metrics else {}, refresh=False)
            bar.refresh()

        return work(on_metrics)
