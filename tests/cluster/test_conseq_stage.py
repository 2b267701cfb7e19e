"""ConSeq on a real cluster: `train` in three resumable steps, which learn the best and unlearn the worst."""

from __future__ import annotations

import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from assessing import config_of

from cotray.config import RunConfig, parse_config
from cotray.errors import DataError, StageError
from cotray.models.loading import load_model, load_tokenizer
from cotray.prompts.student import student_source
from cotray.records import Assessment
from cotray.stages import train as train_module
from cotray.stages.run import train_verb
from cotray.stages.train import train
from cotray.storage.run_folder import RunFolder

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_cluster")]
SHARE, NUM_SAMPLES = 0.7, 3
STEPS = ("mle_student", "samples", "student")


def conseq_config(
    assessed: Path,
    run_dir: Path,
    method: str,
    model: str,
    num_workers: int,
    rules: Any = (),
    epochs: int = 2,
    **conseq: Any,
) -> RunConfig:
    """A run with ConSeq, to which the assessed rationales are copied."""
    for stage in ("requests", "rationales", "assessments"):
        shutil.copytree(assessed / stage, run_dir / stage, dirs_exist_ok=True)
    training = {"learning_rate": 3e-3, "epochs": epochs, "max_length": 2048, "precision": "float32"}
    section = {"score": "num_words", "share": SHARE, "num_samples": NUM_SAMPLES, "learning_rate": 3e-3}
    return parse_config(
        config_of(run_dir, rules=rules).model_dump()
        | {"method": method, "scoring": {"max_new_tokens": 24, "batch_size": 8}}
        | {
            "student": {
                "model": model,
                "training": training | {"num_workers": num_workers},
                "conseq": section | {"epochs": 6} | conseq,
            }
        }
    )


def llama(run_dir: Path, assessed: Path, **conseq: Any) -> RunConfig:
    """It learns to write text first: what it gives no probability to cannot be unlearned."""
    return conseq_config(assessed, run_dir, "contrast-wrong", "random:llama", 2, epochs=25, **conseq)


def without_conseq(config: RunConfig) -> RunConfig:
    return config.model_copy(update={"student": config.student.model_copy(update={"conseq": None})})


def stamps(run_dir: Path) -> dict[str, int]:
    """When each finished step's manifest was written."""
    paths = {step: run_dir / step / ".stage/manifest.json" for step in STEPS}
    return {step: path.stat().st_mtime_ns for step, path in paths.items() if path.exists()}


@pytest.fixture(scope="module")
def interrupted(
    assessed: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[dict[str, int]]]:
    """A run that was stopped after each of its steps, and the steps finished then."""
    run_dir = tmp_path_factory.mktemp("conseq") / "run"
    config = llama(run_dir, assessed)
    finished = []

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    for step in ("draw_samples", "second_phase"):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(train_module, step, stop)
            train(config)
        finished.append(stamps(run_dir))
    train(config)
    return run_dir, [*finished, stamps(run_dir)]


def test_conseq_goes_on_after_the_step_that_was_finished_last(interrupted: Any) -> None:
    _, finished = interrupted
    assert [tuple(step) for step in finished] == [STEPS[:1], STEPS[:2], STEPS]
    assert finished[0].items() <= finished[1].items() <= finished[2].items()


def test_the_same_command_does_nothing_and_shows_what_was_learned(interrupted: Any, assessed: Path) -> None:
    run_dir, finished = interrupted
    shown = train_verb(llama(run_dir, assessed), False)
    assert stamps(run_dir) == finished[-1]
    figures = RunFolder(str(run_dir)).require("student", "train").metrics["conseq"]
    assert f"{figures['selected']} of {figures['questions']} training questions" in shown
    assert f"{figures['logprob']['rejected']['after']:.4f} mean log p per rationale token" in shown


def test_every_factual_training_question_has_its_scored_samples(interrupted: Any) -> None:
    folder = RunFolder(str(interrupted[0]))
    rows = list(folder.read_records("samples", Assessment))
    asked = {row.id for row in folder.read_records("requests", Assessment) if row.split == "train"}
    assert sorted((row.id, row.sample) for row in rows) == sorted(
        (id_, sample) for id_ in asked for sample in range(NUM_SAMPLES)
    )
    assert {(row.kind, row.split, row.error) for row in rows} == {("factual", "train", "")}
    assert [row.num_words for row in rows] == [len(re.findall(r"\w+", row.rationale)) for row in rows]
    assert len({row.rationale for row in rows}) > len(rows) // 2
    manifest = folder.require("samples", "train")
    assert (manifest.num_in, manifest.num_out, manifest.num_dead) == (len(asked), len(rows), 0)


def chosen_and_rejected(
    folder: RunFolder, dropped: set[tuple[str, int]]
) -> list[tuple[Assessment, Assessment]]:
    """By sorting lists."""

    def key(row: Assessment) -> tuple[int, str, int]:
        return (row.num_words or 0) * (1 if row in samples else -1), row.id, row.sample

    samples = [row for row in folder.read_records("samples", Assessment) if row.rationale]
    teachers = [
        row
        for row in folder.read_records("assessments", Assessment)
        if (row.split, row.kind) == ("train", "factual") and (row.id, row.sample) not in dropped
    ]
    ids = sorted({row.id for row in teachers})
    best, worst = (
        sorted((min((row for row in rows if row.id == id_), key=key) for id_ in ids), key=key)
        for rows in (teachers, samples)
    )
    count = round(SHARE * len(ids))
    return [(one, two) for one in best[:count] for two in worst[:count] if one.id == two.id]


def mean_logprob(folder: Path, rows: list[Assessment]) -> float:
    """Per token of the rationales, one text at a time, without padding. Bytes are tokens."""
    model, tokenizer = load_model(str(folder), dtype=torch.float32), load_tokenizer(str(folder))
    values: list[float] = []
    for row in rows:
        ids = tokenizer(student_source(row, tag="[factual]") + row.rationale).input_ids
        with torch.no_grad():
            logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        first = len(ids) - len(row.rationale.encode())
        values += [float(logprobs[t - 1, ids[t]]) for t in range(first, len(ids))]
    return sum(values) / len(values)


def test_two_workers_make_the_chosen_likelier_and_the_rejected_unlikelier(interrupted: Any) -> None:
    run_dir, _ = interrupted
    manifest = RunFolder(str(run_dir)).require("student", "train")
    figures = manifest.metrics["conseq"]
    pairs = chosen_and_rejected(RunFolder(str(run_dir)), dropped=set())
    assert 0 < figures["selected"] == manifest.num_out == len(pairs) <= figures["scored"]
    for rows, side in zip(zip(*pairs, strict=True), ("chosen", "rejected"), strict=True):
        before, after = (mean_logprob(run_dir / step, list(rows)) for step in ("mle_student", "student"))
        assert figures["logprob"][side] == pytest.approx({"before": before, "after": after}, abs=1e-4)
    # By how much depends on which samples rounding lets the student draw: 0.086 on one kind of CPU.
    assert figures["logprob"]["chosen"]["after"] > figures["logprob"]["chosen"]["before"] + 0.05
    assert figures["logprob"]["rejected"]["after"] < figures["logprob"]["rejected"]["before"] - 0.05
    history = manifest.metrics["history"]
    assert len(history) == 6
    assert all(math.isfinite(value) for row in history for value in row.values())


def test_the_first_phase_is_a_run_without_conseq_and_has_its_settings(interrupted: Any) -> None:
    """With the first phase in place of student/, a run without ConSeq has nothing to do."""
    run_dir, _ = interrupted
    other = run_dir.parent / "plain"
    config = without_conseq(llama(other, run_dir))
    shutil.copytree(run_dir / "mle_student", other / "student")
    manifest = train(config)
    assert manifest.stage == "mle_student"
    assert list(manifest.settings) == sorted(
        ["model", "revision", "num_layers", "training", "seed", "alpha", "prompts"]
    )


def test_another_configuration_is_refused_before_anything_is_made_again(
    interrupted: Any, assessed: Path
) -> None:
    run_dir, finished = interrupted
    for changed, message in (
        (llama(run_dir, assessed, share=0.6), r"\(conseq\.share: 0\.7 -> 0\.6\)"),
        (llama(run_dir, assessed, num_samples=4), r"conseq\.num_samples: 3 -> 4; its input changed"),
        (without_conseq(llama(run_dir, assessed)), r"conseq\.share: 0\.7 -> None"),
    ):
        with pytest.raises(StageError, match=message):
            train(changed)
    assert stamps(run_dir) == finished[-1]


def test_nothing_to_learn_from_says_how_many_questions_had_scores(
    interrupted: Any, assessed: Path, tmp_path: Path
) -> None:
    shutil.copytree(interrupted[0], tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "student")
    with pytest.raises(DataError, match=r"\d+ of \d+ training questions have num_words of both.* Raise") as e:
        train(llama(tmp_path / "run", assessed, share=0.01))
    assert "\n" not in str(e.value)


@pytest.mark.long
def test_conseq_composes_with_counterfactual_rationales_and_rules_on_an_encoder_decoder(
    assessed: Path, tmp_path: Path
) -> None:
    rules = [{"score": "num_words", "lowest": 0.5}]
    config = conseq_config(assessed, tmp_path, "contrast-wrong+counterfactual", "random:t5", 1, rules)
    manifest = train(config)
    folder = RunFolder(str(tmp_path))
    rows = [row for row in folder.read_records("assessments", Assessment) if row.split == "train"]
    factual, counterfactual = (
        sorted((row.num_words or 0, row.id, row.sample) for row in rows if row.kind == kind)
        for kind in ("factual", "counterfactual")
    )
    dropped = {(id_, sample) for _, id_, sample in factual[: len(factual) // 2]}
    assert manifest.metrics["factual"] == len(chosen_and_rejected(folder, dropped))
    assert manifest.metrics["counterfactual"] == len(counterfactual) - len(counterfactual) // 2
    assert manifest.metrics["selection"]["dropped"] == len(dropped) + len(counterfactual) // 2
    first, last = manifest.metrics["history"][0], manifest.metrics["history"][-1]
    assert last["loss_counterfactual"] < first["loss_counterfactual"]
    logprob = manifest.metrics["conseq"]["logprob"]
    assert logprob["chosen"]["after"] > logprob["chosen"]["before"]
    assert logprob["rejected"]["after"] < logprob["rejected"]["before"]
