"""Real two-worker runs on Ray Train: the result, a killed worker, a killed driver."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from local_ray import local_ray
from peft import PeftModel

from cotray.config import ModelConfig, TrainingConfig, parse_config
from cotray.config.adapter import AdapterConfig
from cotray.models.loading import load_model, load_tokenizer
from cotray.records import Kind, Rationale
from cotray.stages.examples import Source, make_examples
from cotray.storage.manifest import Manifest
from cotray.storage.run_folder import DeadLetter, RunFolder
from cotray.training.batches import StepExamples, StudentBatches
from cotray.training.examples import Examples
from cotray.training.node_examples import StageExamples
from cotray.training.renderers import StudentRenderer
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


def examples_in(run_dir: Path) -> Manifest:
    """The stage examples/ of the rationales above, in a folder of its own."""
    folder = RunFolder(str(run_dir))
    folder.begin("rationales", settings={}, input="", overwrite=True)
    folder.write_records("rationales/part-00000.parquet", rationales(), Rationale)
    render = StudentRenderer("on", 42, ("factual", "counterfactual"))
    return make_examples(
        folder,
        "examples",
        [Source("rationales", Rationale, render)],
        MODEL,
        max_length=TRAINING.max_length,
        settings={},
        input="",
        label="examples",
    )


BATCHES = partial(StudentBatches, batch_size=4, alpha=0.5, seed=42)


def interrupted_batches(examples: Examples, *, step: int, marker: str, exits: bool) -> Interrupted:
    return Interrupted(BATCHES(examples), step, marker, exits)


def fit_interrupted(output_dir: Path, *, exits: bool, on_metrics):
    marker = str(output_dir.with_suffix(".marker"))
    return fit_on(output_dir, partial(interrupted_batches, step=4, marker=marker, exits=exits), on_metrics)


def fit_on(
    output_dir: Path, batches, on_metrics, model: ModelConfig = MODEL, training: TrainingConfig = TRAINING
):
    from cotray.pools.train_workers import fit

    manifest = examples_in(output_dir.parent)
    found = StageExamples(str(output_dir.parent), "examples", manifest.fingerprint)
    return fit(found, batches, model, training, str(output_dir), alpha=0.5, seed=42, on_metrics=on_metrics)


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
    folder, metrics = tmp_path_factory.mktemp("straight") / "student", []
    return folder, fit_on(folder, BATCHES, metrics.append), metrics


def weights_in(folder: Path) -> dict[str, torch.Tensor]:
    return load_model(str(folder), dtype=torch.float32).state_dict()


def assert_same_weights(one: Path, two: Path) -> None:
    first, second = weights_in(one), weights_in(two)
    assert all(torch.allclose(first[key], second[key], atol=1e-6, rtol=0) for key in first)


def test_two_workers_train_a_student_and_account_for_every_row(undisturbed):
    folder, report, metrics = undisturbed
    manifest = examples_in(folder.parent)
    counts = {"train-factual": 8, "train-counterfactual": 8, "dev-factual": 2, "skipped": 1}
    assert manifest.metrics == counts
    assert (manifest.num_in, manifest.num_out, manifest.num_dead) == (
        22,
        18,
        1,
    )  # 2 counterfactual ones of dev
    (letter,) = RunFolder(str(folder.parent)).read_records("dead_letter", DeadLetter)
    assert letter.id == "long"
    assert (report.num_steps, report.num_epochs) == (6, 3)
    assert report.tokens_per_s > 0
    steps = [row for row in metrics if "loss" in row]
    assert [row["step"] for row in steps] == [1, 2, 3, 4, 5, 6]
    assert steps[-1]["loss"] < steps[0]["loss"] - 1
    assert [row["dev_loss"] for row in metrics if "dev_loss" in row] == [
        row["dev_loss"] for row in report.history
    ]


def test_the_export_is_the_best_model_and_its_files_are_told(undisturbed):
    folder, report, _ = undisturbed
    found = StageExamples(str(folder.parent), "examples", examples_in(folder.parent).fingerprint)
    dev = found.opened().rows("factual", "dev")
    model = load_model(str(folder), dtype=torch.float32)
    loss = evaluate(model, Collator(model, load_tokenizer(str(folder)), 2)(dev))
    assert loss == pytest.approx(min(row["dev_loss"] for row in report.history), rel=1e-5)
    assert loss == pytest.approx(report.best_dev_loss, rel=1e-5)
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= names
    assert {entry.name for entry in report.files} == names - {"checkpoints"}


@pytest.mark.long
def test_an_adapter_is_learned_and_its_folder_is_read_without_peft_and_with_it(cluster, tmp_path):
    model = MODEL.model_copy(
        update={"adapter": AdapterConfig(kind="lora", rank=4, targets=["q_proj", "up_proj"])}
    )
    metrics: list[dict[str, float]] = []
    report = fit_on(tmp_path / "student", BATCHES, metrics.append, model)
    steps = [row["loss"] for row in metrics if "loss" in row]
    assert steps[-1] < steps[0]
    names = {entry.name for entry in report.files}
    assert {"model.safetensors", "adapter/adapter_model.safetensors", "adapter/adapter_config.json"} <= names
    merged = load_model(str(tmp_path / "student"), dtype=torch.float32)
    plain = load_model("random:llama", dtype=torch.float32)
    changed = {
        key for key, value in merged.state_dict().items() if not torch.equal(value, plain.state_dict()[key])
    }
    assert {key.split(".")[4] for key in changed} == {"q_proj", "up_proj"}
    adapted = PeftModel.from_pretrained(plain, str(tmp_path / "student" / "adapter"))
    ids = torch.tensor([[5, 9, 17, 40]])
    with torch.no_grad():
        expected, found = adapted(input_ids=ids).logits, merged(input_ids=ids).logits
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_a_killed_worker_changes_nothing_in_the_result(undisturbed, tmp_path):
    """Worker 1 exits before step 5; the group starts again from the last registered checkpoint."""
    metrics = []
    report = fit_interrupted(tmp_path / "student", exits=True, on_metrics=metrics.append)
    assert (tmp_path / "student.marker").exists()
    steps = [row["step"] for row in metrics if "loss" in row]
    # Worker 0 may not have made epoch 2's checkpoint count when worker 1 dies right after it.
    assert steps in ([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 3, 4, 5, 6])
    assert [row["dev_loss"] for row in report.history] == [row["dev_loss"] for row in undisturbed[1].history]
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
    first = subprocess.run([sys.executable, "-c", script], timeout=600, capture_output=True)
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
    shutil.copytree(undisturbed[0], output_dir)
    steps = sorted(output_dir.glob("checkpoints/*/step-*"))
    assert [step.name for step in steps] == ["step-00000004", "step-00000006"]
    cut = next(steps[-1].glob("*.distcp"))
    cut.write_bytes(cut.read_bytes()[:-10])
    metrics = []
    fit_on(output_dir, BATCHES, metrics.append)
    assert [row["step"] for row in metrics if "loss" in row] == [5, 6]
    said = capfd.readouterr().err
    assert f"goes on from step-00000004 (step-00000006: {cut.name} has " in said
    assert_same_weights(output_dir, undisturbed[0])


def test_training_that_is_done_is_not_done_again_if_only_its_manifest_is_missing(undisturbed, tmp_path):
    folder, first, _ = undisturbed
    shutil.copytree(folder, tmp_path / "student")
    metrics = []
    again = fit_on(tmp_path / "student", BATCHES, metrics.append)
    assert [row for row in metrics if "loss" in row] == [] and again.history == first.history
    assert again.files == first.files


def test_checkpoints_belong_to_what_determines_the_weights():
    """More workers may go on from them; another learning rate or other examples may not."""
    from cotray.pools.train_workers import _fingerprint, _Task
    from cotray.storage.lease import NO_FENCE

    def fingerprint(version="v1", batches=BATCHES, **training) -> str:
        config = TRAINING.model_copy(update=training)
        found = StageExamples("run", "examples", version)
        return _fingerprint(_Task(found, batches, True, MODEL, config, 0.5, 42, "out", "", NO_FENCE))

    assert fingerprint(num_workers=4, max_failures=0, batching="packed") == fingerprint()
    others = [
        fingerprint(learning_rate=1e-3),
        fingerprint("v2"),
        fingerprint(batches=partial(BATCHES, batch_tokens=50)),
    ]
    assert len({fingerprint(), *others}) == 4

    def of_model(alpha=0.5, **changed) -> str:
        found = StageExamples("run", "examples", "v1")
        model = MODEL.model_copy(update=changed)
        return _fingerprint(_Task(found, BATCHES, True, model, TRAINING, alpha, 42, "out", "", NO_FENCE))

    adapters = [of_model(adapter=AdapterConfig(kind="lora", rank=rank)) for rank in (4, 8)]
    assert of_model(adapter=None) == fingerprint() and len({fingerprint(), *adapters}) == 3


def test_examples_made_by_tasks_on_the_cluster_are_those_made_in_this_process(cluster, tmp_path, monkeypatch):
    import cotray.stages.examples as stage

    def made(name: str, rows_in_this_process: int) -> tuple[Manifest, list[bytes]]:
        monkeypatch.setattr(stage, "ROWS_IN_THIS_PROCESS", rows_in_this_process)
        folder = RunFolder(str(tmp_path / name))
        for part in range(3):
            rows = rationales()[part * 8 : part * 8 + 8]
            folder.write_records(f"rationales/part-{part:05}.parquet", rows, Rationale)
        render = StudentRenderer("on", 42, ("factual", "counterfactual"))
        source = [Source("rationales", Rationale, render)]
        options = {"max_length": 120, "settings": {}, "input": "", "label": name}
        manifest = make_examples(folder, "examples", source, MODEL, **options)
        return manifest, [
            path.read_bytes() for path in sorted((tmp_path / name / "examples").glob("*.parquet"))
        ]

    here, tasks = made("here", 4096), made("tasks", 0)
    assert tasks[0].metrics == here[0].metrics and tasks[0].num_dead == here[0].num_dead == 1
    assert tasks[0].files == here[0].files and tasks[1] == here[1]
