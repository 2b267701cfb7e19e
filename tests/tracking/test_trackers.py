"""A training in TensorBoard, MLflow, Weights & Biases and Trackio, read back with their own readers.

All are local or offline. Those that are not installed are skipped: their needs go against the pins.
"""

from __future__ import annotations

import json
import struct
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cotray.config import TrainingConfig
from cotray.errors import ConfigError
from cotray.storage.run_folder import RunFolder
from cotray.tracking.clients import flat
from cotray.tracking.tracking import MARK, check_tracking, feed

SETTINGS = {"model": "random:llama", "training": {"learning_rate": 0.5, "epochs": 3, "tracking": ["wandb"]}}
FLAT = {"model": "random:llama", "training.learning_rate": 0.5, "training.epochs": 3}
STAGE = "student"

Found = tuple[dict[str, list[tuple[int, float]]], dict[str, Any]]
"""(step, value) of each metric of the only run there is, in their order; and its settings."""


def loss_of(step: int) -> float:
    return 1 / step


def follow(names: tuple[Any, ...], folder: Path, first: int, last: int, *, dies: bool = False) -> None:
    """The steps of one attempt at a training, with an evaluation after each even one."""
    try:
        with feed(names, RunFolder(str(folder)), STAGE, SETTINGS) as tracked:
            for step in range(first, last + 1):
                tracked.add({"stage": STAGE, "step": step, "num_steps": 9, "loss": loss_of(step)})
                if step % 2 == 0:
                    tracked.add({"step": step, "num_steps": 9, "dev_loss": 2 * loss_of(step)})
            if dies:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert dies


def in_tensorboard(folder: Path) -> Found:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # pyright: ignore[reportMissingImports]

    events = EventAccumulator(str(folder / "tensorboard" / STAGE)).Reload()
    scalars = {
        tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }
    text = events.Tensors("settings/text_summary")[0].tensor_proto.string_val[0].decode()
    return scalars, dict(line.strip().split(": ", 1) for line in text.splitlines())


def in_mlflow(folder: Path) -> Found:
    from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports]

    client = MlflowClient()
    (experiment,) = [e for e in client.search_experiments() if e.name == "cotray"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED" and run.info.run_name == f"{folder}/{STAGE}"
    history = {
        name: [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
    }
    return history, run.data.params


def in_trackio(folder: Path) -> Found:
    from trackio.sqlite_storage import SQLiteStorage  # pyright: ignore[reportMissingImports]

    (name,) = SQLiteStorage.get_runs("cotray")
    assert name.startswith(f"{folder}/{STAGE}-")
    rows = SQLiteStorage.get_logs("cotray", name)
    metrics = {
        metric: [(row["step"], row[metric]) for row in rows if metric in row]
        for metric in ("loss", "dev_loss", "num_steps")
    }
    return metrics, SQLiteStorage.get_run_config("cotray", name) or {}


def in_wandb(folder: Path) -> Found:
    """Of both attempts' files, which `wandb sync` sends in this order to the run that they name."""
    from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore

    metrics, settings = defaultdict[str, list[tuple[int, float]]](list), {}
    ids = set[str]()
    files = sorted((folder / "wandb").glob("offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime)
    for file in files:
        for data in logged_records(file.read_bytes()):
            record = Record.FromString(data)
            if record.HasField("run"):
                ids.add(record.run.run_id)
                assert record.run.project == "cotray" and record.run.display_name == f"{folder}/{STAGE}"
                config = {item.key: json.loads(item.value_json) for item in record.run.config.update}
                settings |= flat({name: value for name, value in config.items() if name != "_wandb"})
            for item in record.history.item:
                name = item.key or item.nested_key[0]
                if not name.startswith("_"):
                    metrics[name].append((record.history.step.num, json.loads(item.value_json)))
    assert len(ids) == 1 and len(files) == 2
    return metrics, settings


def logged_records(data: bytes) -> Iterator[bytes]:
    """Of a log file as LevelDB's: blocks of 32 KiB with records behind checksum, length and kind."""
    place, parts = 7, b""  # behind wandb's own seven bytes
    while place + 7 <= len(data):
        if (left := -place % 32768) and left < 7:
            place += left
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole one, or the last part
            yield parts
            parts = b""


READERS: dict[str, Callable[[Path], Found]] = {
    "tensorboard": in_tensorboard,
    "mlflow": in_mlflow,
    "wandb": in_wandb,
    "trackio": in_trackio,
}


@pytest.fixture(autouse=True)
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every client at work below this test's folder, and none over the network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    yield


@pytest.mark.parametrize("name", READERS)
def test_a_resumed_training_is_one_run_with_every_step_once(name: Any, tmp_path: Path) -> None:
    """The first attempt made five steps; the second goes on from a checkpoint after the third."""
    pytest.importorskip(name)
    follow((name,), tmp_path, 1, 5, dies=True)
    follow((name,), tmp_path, 4, 7)
    metrics, settings = READERS[name](tmp_path)
    assert [step for step, _ in metrics["loss"]] == [1, 2, 3, 4, 5, 6, 7]
    assert [value for _, value in metrics["loss"]] == pytest.approx([loss_of(s) for s in range(1, 8)])
    assert [step for step, _ in metrics["dev_loss"]] == [2, 4, 6]
    assert {key: str(settings[key]) for key in FLAT} == {key: str(value) for key, value in FLAT.items()}


def test_what_reached_tensorboard_without_being_noted_counts_once(tmp_path: Path) -> None:
    """As if the driver had died between the two: the note still says three steps where there are five."""
    pytest.importorskip("tensorboard")
    follow(("tensorboard",), tmp_path, 1, 5, dies=True)
    mark = tmp_path / STAGE / MARK
    noted = json.loads(mark.read_text())
    assert noted["sent"] == [5, False]
    mark.write_text(json.dumps(noted | {"sent": [3, False]}))
    follow(("tensorboard",), tmp_path, 4, 6)
    metrics, _ = in_tensorboard(tmp_path)
    assert [step for step, _ in metrics["loss"]] == [1, 2, 3, 4, 5, 6]


def test_a_stage_that_is_made_again_is_another_run(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    ids = []
    for overwrite in (False, False, True):
        folder.begin(STAGE, settings={}, input="", overwrite=overwrite)
        if overwrite:
            folder.restart(STAGE, settings={}, input="")
        with feed(("tensorboard",), folder, STAGE, SETTINGS) as tracked:
            tracked.add({"step": 1, "loss": 1.0})
            ids.append(tracked.id)
    assert ids[0] == ids[1] != ids[2]


def test_a_tracker_that_fails_is_told_once_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A file lies where TensorBoard's folder should be."""
    pytest.importorskip("tensorboard")
    (tmp_path / "tensorboard").write_text("")
    folder = RunFolder(str(tmp_path))
    with feed(("tensorboard",), folder, STAGE, SETTINGS) as tracked:
        for step in (1, 2, 3):
            tracked.add({"step": step, "loss": loss_of(step)})
            tracked.send()
    said = capfd.readouterr().err
    assert said.count("training.tracking: tensorboard failed, and training goes on without it: ") == 1


def test_without_trackers_nothing_is_written(tmp_path: Path) -> None:
    with feed((), RunFolder(str(tmp_path)), STAGE, SETTINGS) as tracked:
        tracked.add({"step": 1, "loss": 1.0})
    assert list(tmp_path.iterdir()) == []


def test_a_client_that_is_not_there_is_told_before_training(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ConfigError, match="mlflow is not installed; `pip install mlflow`, or leave it out"):
        check_tracking(TrainingConfig(tracking=("mlflow",)))
    check_tracking(TrainingConfig())


def test_a_folder_of_a_clients_name_is_no_client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """wandb leaves one where it was used."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "trackio", raising=False)
    (tmp_path / "trackio").mkdir()
    with pytest.raises(ConfigError, match="trackio is not installed"):
        check_tracking(TrainingConfig(tracking=("trackio",)))


def test_wandb_without_a_key_is_told_before_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wandb = pytest.importorskip("wandb")
    check_tracking(TrainingConfig(tracking=("wandb",)))  # offline
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    wandb.teardown()  # which has read the variables
    with pytest.raises(ConfigError, match="wandb has no key; set WANDB_API_KEY"):
        check_tracking(TrainingConfig(tracking=("wandb",)))


def test_trackers_change_no_fingerprint() -> None:
    assert TrainingConfig(tracking=("wandb", "mlflow")).settings() == TrainingConfig().settings()
