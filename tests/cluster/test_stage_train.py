"""Real two-worker runs on Ray Train: the result, a killed worker, a killed driver."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from local_ray import local_ray

from cotray.config import ModelConfig, TrainingConfig, parse_config
from cotray.models.loading import load_model, load_tokenizer
from cotray.records import Kind, Rationale, TrainExample
from cotray.training.batches import StepExamples, StudentBatches
from cotray.training.step import Collator, evaluate

pytestmark = pytest.mark.ray
HERE = Path(__file__).parent

RUN = parse_config(
    {
        "method": "contrast-wrong+counterfactual",
        "student": {
            "model": "random:llama",
            "training": {
                "learning_rate": 1e-2,
                "warmup_fraction": 0,
                "epochs": 3,
                "batch_size": 4,
                "micro_batch_size": 2,
                "patience": 10,
                "max_length": 120,
                "precision": "float32",
                "num_workers": 2,
                "num_cpus": 1,
            },
        },
    }
)
MODEL: ModelConfig = RUN.student
TRAINING: TrainingConfig = RUN.student.training


def rationales() -> list[Rationale]:
    """8 train and 2 dev questions, each with a factual and a counterfactual rationale, and one failure."""
    rows: list[Rationale] = []
    for index in range(10):
        gold, wrong = ("yes", "no") if index % 2 == 0 else ("no", "yes")
        question = {
            "id": f"q{index}",
            "task": "yes_no",
            "question": f"Is {index} even?",
            "choices": ("yes", "no"),
            "answer": gold,
            "split": "train" if index < 8 else "dev",
        }
        kinds: tuple[tuple[Kind, str], ...] = (("factual", gold), ("counterfactual", wrong))
        for kind, target in kinds:
            text = f"{index} is {'' if target == 'yes' else 'not '}twice a number."
            rows.append(Rationale(**question, kind=kind, target_answer=target, rationale=text))
    failed = Rationale("bad", "yes_no", "?", ("yes", "no"), "yes", target_answer="yes", error="no memory")
    long = Rationale("long", "yes_no", "?", ("yes", "no"), "yes", target_answer="yes", rationale="a" * 200)
    return [*rows, failed, long]


@dataclass
class Interrupted:
    """Batches that stop worker 1 before step `step`, once: it exits, or it waits for its end."""

    batches: StudentBatches
    step: int
    marker: str
    exits: bool

    @property
    def num_steps_per_epoch(self) -> int:
        return self.batches.num_steps_per_epoch

    def __call__(self, step: int) -> StepExamples:
        if step == self.step and os.environ.get("RANK") == "1" and not Path(self.marker).exists():
            Path(self.marker).touch()
            if self.exits:
                os._exit(1)
            threading.Event().wait(60)
        return self.batches(step)


def examples() -> tuple[list[TrainExample], list[TrainExample]]:
    from cotray.prompts.student import student_example

    rows = [row for row in rationales() if not row.error and row.id != "long"]
    made = [(row, student_example(row, tags="on", seed=42, is_encoder_decoder=False)) for row in rows]
    train = [example for row, example in made if row.split == "train"]
    return train, [example for row, example in made if row.split == "dev" and row.kind == "factual"]


def fit_interrupted(output_dir: Path, *, exits: bool, on_metrics):
    from cotray.pools.train_workers import fit

    train, dev = examples()
    batches = StudentBatches(train, batch_size=4, alpha=0.5, seed=42)
    interrupted = Interrupted(batches, 4, str(output_dir.with_suffix(".marker")), exits)
    return fit(interrupted, dev, MODEL, TRAINING, str(output_dir), alpha=0.5, seed=42, on_metrics=on_metrics)


@pytest.fixture(scope="module")
def cluster():
    os.environ |= {
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
        "PYTHONPATH": os.pathsep.join(
            [str(HERE), str(HERE.parent / "support"), os.environ.get("PYTHONPATH", "")]
        ),
    }
    with local_ray(num_cpus=8, object_store_memory=200 << 20) as address:
        yield address


@pytest.fixture(scope="module")
def undisturbed(cluster, tmp_path_factory):
    """(folder, report, metrics) of one straight run."""
    from cotray.stages.train import train_student

    folder, metrics = tmp_path_factory.mktemp("straight") / "student", []
    report = train_student(rationales(), RUN, str(folder), on_metrics=metrics.append)
    return folder, report, metrics


def weights_in(folder: Path) -> dict[str, torch.Tensor]:
    return load_model(str(folder), dtype=torch.float32).state_dict()


def assert_same_weights(one: Path, two: Path) -> None:
    first, second = weights_in(one), weights_in(two)
    assert all(torch.allclose(first[key], second[key], atol=1e-6, rtol=0) for key in first)


def test_two_workers_train_a_student_and_account_for_every_row(undisturbed):
    _, report, metrics = undisturbed
    counts = (report.num_factual, report.num_counterfactual, report.num_dev, report.num_skipped)
    assert counts == (8, 8, 2, 1)
    assert [example.id for example in report.too_long] == ["long"]
    assert (report.fit.num_steps, report.fit.num_epochs) == (6, 3)
    assert report.fit.tokens_per_s > 0
    steps = [row for row in metrics if "loss" in row]
    assert [row["step"] for row in steps] == [1, 2, 3, 4, 5, 6]
    assert steps[-1]["loss"] < steps[0]["loss"] - 1
    assert [row["dev_loss"] for row in metrics if "dev_loss" in row] == [
        row["dev_loss"] for row in report.fit.history
    ]


def test_the_export_is_the_best_model_and_its_files_are_told(undisturbed):
    folder, report, _ = undisturbed
    _, dev = examples()
    model = load_model(str(folder), dtype=torch.float32)
    loss = evaluate(model, Collator(model, load_tokenizer(str(folder)), 2)(dev))
    assert loss == pytest.approx(min(row["dev_loss"] for row in report.fit.history), rel=1e-5)
    assert loss == pytest.approx(report.fit.best_dev_loss, rel=1e-5)
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= names
    assert {entry.name for entry in report.fit.files} == names - {"checkpoints"}


def test_a_killed_worker_changes_nothing_in_the_result(undisturbed, tmp_path):
    """Worker 1 exits before step 5; the group starts again from the last registered checkpoint."""
    metrics = []
    report = fit_interrupted(tmp_path / "student", exits=True, on_metrics=metrics.append)
    assert (tmp_path / "student.marker").exists()
    steps = [row["step"] for row in metrics if "loss" in row]
    # Worker 0 may not have made epoch 2's checkpoint count when worker 1 dies right after it.
    assert steps in ([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 3, 4, 5, 6])
    assert [row["dev_loss"] for row in report.history] == [
        row["dev_loss"] for row in undisturbed[1].fit.history
    ]
    assert_same_weights(tmp_path / "student", undisturbed[0])


def test_the_same_command_goes_on_after_its_driver_was_killed(cluster, undisturbed, tmp_path):
    output_dir = tmp_path / "student"
    script = f"""
import os, ray, threading, time
from pathlib import Path
from test_stage_train import fit_interrupted
ray.init(address={cluster!r}, log_to_driver=False)
output_dir = Path({str(output_dir)!r})
def leave():
    # Once there is a whole checkpoint; worker 1 waits then.
    while not any(output_dir.glob("checkpoints/*/step-*/complete.json")):
        time.sleep(0.05)
    os._exit(7)
threading.Thread(target=leave, daemon=True).start()
fit_interrupted(output_dir, exits=False, on_metrics=lambda metrics: None)
"""
    first = subprocess.run([sys.executable, "-c", script], timeout=120, capture_output=True)
    assert first.returncode == 7, first.stderr.decode()[-3000:]
    assert (output_dir / "checkpoints").is_dir() and not (output_dir / "config.json").exists()

    metrics = []
    (output_dir.with_suffix(".marker")).touch()
    report = fit_interrupted(output_dir, exits=False, on_metrics=metrics.append)
    first_step = next(row["step"] for row in metrics if "loss" in row)
    assert first_step in (3, 5)  # a later checkpoint may have been under way
    assert (report.num_steps, report.num_epochs) == (6, 3)
    assert_same_weights(output_dir, undisturbed[0])


def test_a_truncated_checkpoint_is_told_and_training_goes_on_from_the_one_before(
    undisturbed, tmp_path, capfd
):
    """All checkpoints are there, because nothing was finished after training; the last one is cut."""
    output_dir = tmp_path / "student"
    output_dir.with_suffix(".marker").touch()
    fit_interrupted(output_dir, exits=False, on_metrics=lambda metrics: None)
    steps = sorted(output_dir.glob("checkpoints/*/step-*"))
    assert [step.name for step in steps] == ["step-00000004", "step-00000006"]
    cut = next(steps[-1].glob("*.distcp"))
    cut.write_bytes(cut.read_bytes()[:-10])
    metrics = []
    fit_interrupted(output_dir, exits=False, on_metrics=metrics.append)
    assert [row["step"] for row in metrics if "loss" in row] == [5, 6]
    said = capfd.readouterr().err
    assert f"goes on from step-00000004 (step-00000006: {cut.name} has " in said
    assert_same_weights(output_dir, undisturbed[0])


def test_training_that_is_done_is_not_done_again_if_only_its_manifest_is_missing(undisturbed, tmp_path):
    output_dir = tmp_path / "student"
    output_dir.with_suffix(".marker").touch()
    first = fit_interrupted(output_dir, exits=False, on_metrics=lambda metrics: None)
    metrics = []
    again = fit_interrupted(output_dir, exits=False, on_metrics=metrics.append)
    assert [row for row in metrics if "loss" in row] == [] and again.history == first.history
    assert again.files == first.files


def test_checkpoints_belong_to_what_determines_the_weights():
    """More workers may go on from them; another learning rate or another row may not."""
    from cotray.pools.train_workers import _fingerprint, _Task
    from cotray.storage.lease import NO_FENCE

    train, dev = examples()

    def fingerprint(rows=train, **training) -> str:
        batches = StudentBatches(rows, batch_size=4, alpha=0.5, seed=42)
        config = TRAINING.model_copy(update=training)
        return _fingerprint(_Task(batches, tuple(dev), MODEL, config, 0.5, 42, "out", "", NO_FENCE))

    assert fingerprint(num_workers=4, max_failures=0) == fingerprint() == fingerprint(train[::-1])
    assert len({fingerprint(), fingerprint(learning_rate=1e-3), fingerprint(train[1:])}) == 3
