"""What is kept of a training's steps while it runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cotray.config import TrainingConfig
from cotray.pools import training_progress as module
from cotray.pools.training_progress import training_progress
from cotray.storage.run_folder import RunFolder


@pytest.fixture(autouse=True)
def gauges(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, float]]]:
    """What Prometheus would be told, without a cluster."""
    told: list[tuple[str, dict[str, float]]] = []
    monkeypatch.setattr(module, "gauge", lambda stage, values: told.append((stage, dict(values))))
    return told


def followed(work: Callable[[Any], Any], folder: Path, **training: Any) -> Any:
    config = TrainingConfig.model_validate(training)
    return training_progress(work, "train", RunFolder(str(folder)), "student", config, {"alpha": 0.5})


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_first_step_and_every_evaluation_are_kept_and_all_is_written_at_the_end(
    tmp_path: Path, gauges: list[tuple[str, dict[str, float]]]
) -> None:
    def work(on_metrics: Any) -> str:
        for step in range(1, 6):  # within a second
            on_metrics({"step": step, "num_steps": 5, "loss": 1 / step, "grad_norm": 0.5})
        on_metrics({"step": 5, "num_steps": 5, "epoch": 1, "dev_loss": 0.25})
        return "done"

    assert followed(work, tmp_path) == "done"
    assert rows_of(tmp_path) == [
        {"stage": "student", "step": 1, "num_steps": 5, "loss": 1.0, "grad_norm": 0.5},
        {"stage": "student", "step": 5, "num_steps": 5, "epoch": 1, "dev_loss": 0.25},
    ]
    assert gauges[0] == ("student", {"step": 1, "loss": 1.0, "grad_norm": 0.5})
    assert len(gauges) == 6 and gauges[-1] == ("student", {"step": 5, "dev_loss": 0.25})


def test_steps_are_kept_when_training_fails(tmp_path: Path) -> None:
    def work(on_metrics: Any) -> None:
        on_metrics({"step": 1, "num_steps": 5, "loss": 1.0})
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        followed(work, tmp_path)
    assert rows_of(tmp_path) == [{"stage": "student", "step": 1, "num_steps": 5, "loss": 1.0}]


def test_trackers_get_the_rows_of_metrics_jsonl_and_the_settings(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    def work(on_metrics: Any) -> None:
        for step in range(1, 6):  # within a second
            on_metrics({"step": step, "num_steps": 5, "loss": 1 / step, "grad_norm": 0.5})
        on_metrics({"step": 5, "num_steps": 5, "epoch": 1, "dev_loss": 0.25})

    followed(work, tmp_path, tracking=["tensorboard"], learning_rate=0.125)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard" / "student")).Reload()
    found = {
        (event.step, name, event.value) for name in events.Tags()["scalars"] for event in events.Scalars(name)
    }
    rows = [{key: row[key] for key in row.keys() - {"stage"}} for row in rows_of(tmp_path)]
    assert found == {(row["step"], name, row[name]) for row in rows for name in row.keys() - {"step"}}
    text = events.Tensors("settings/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "alpha: 0.5" in text and "training.learning_rate: 0.125" in text
