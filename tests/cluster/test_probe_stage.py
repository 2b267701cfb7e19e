"""`probe` on a real cluster: what it asks, what it takes up again, and what it makes anew."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from interrupting import interrupt

from cotray.cli import job
from cotray.config import RunConfig, load_config
from cotray.probing.figures import by_question
from cotray.records import ProbedAnswer, Rationale, TeacherRequest
from cotray.report.run_columns import run_columns
from cotray.stages.probe import probe
from cotray.storage.run_folder import RunFolder

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_cluster")]

TRAINING = {"epochs": 1, "learning_rate": 1e-3, "max_length": 2048}
MEASURES = ["early_answering", "filler", "mistake", "following", "hidden_influence"]


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run that was scored and probed."""
    folder = tmp_path_factory.mktemp("probe")
    tree = {
        "run_dir": str(folder / "run"),
        "method": "greedy",
        "methods": ["greedy"],
        "data": {"path": "sample", "limit": 24},
        "teacher": {"engine": "fake", "model": "fake", "num_cpus": 1},
        "student": {"model": "random:qwen2", "training": TRAINING},
        "simulator": {"model": "random:qwen2", "mode": "prompted"},
        "scoring": {"max_new_tokens": 12, "num_cpus": 1},
        "probing": {"measures": MEASURES, "num_cpus": 1},
    }
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(tree))
    assert job("run", ["-c", str(file)]) == 0
    return file


def run_of(config_file: Path) -> tuple[RunConfig, RunFolder]:
    config = load_config(config_file).for_method("greedy")
    return config, RunFolder(config.run_dir)


def test_every_test_question_is_probed_once_and_every_wrong_choice_has_a_rationale(config_file: Path) -> None:
    _, folder = run_of(config_file)
    requests = [row for row in folder.read_records("requests", TeacherRequest) if row.split == "test"]
    asked = {row.id: row for row in requests if row.kind == "factual"}
    probes = list(folder.read_records("probes", ProbedAnswer))
    assert Counter(row.id for row in probes) == Counter(list(asked))
    wrong = {(id_, choice) for id_, row in asked.items() for choice in row.choices if choice != row.answer}
    others = list(folder.read_records("other_rationales", Rationale))
    assert Counter((row.id, row.target_answer) for row in others) == Counter(wrong) and len(wrong) > 0
    assert all(row.contrast_answer == row.answer and row.rationale for row in others)
    answered = list(folder.read_records("other_answers", ProbedAnswer))
    assert [(row.id, row.probes) for row in answered] == [
        (row.id, (f"given {row.target_answer}",)) for row in others
    ]
    assert all(row.probe_rationales[0] == of.rationale for row, of in zip(answered, others, strict=True))


def test_the_manifest_the_report_and_a_gate_have_the_figures_of_all_rows(
    config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, folder = run_of(config_file)
    rows = [row for stage in ("probes", "other_answers") for row in folder.read_records(stage, ProbedAnswer)]
    columns = by_question(rows)
    metrics = folder.require("probes", "probe").metrics
    for stage in ("rationales", "other_rationales", "other_answers", "probes"):
        assert folder.require(stage, "probe").times["start_s"] > 0, stage
    for name in ("early_answering", "filler", "following"):
        values = [one[name] for one in columns.values() if not np.isnan(one[name])]
        assert metrics[name]["value"] == pytest.approx(sum(values) / len(values)) and len(values) > 1
    assert {id_: one["filler"] for id_, one in run_columns(folder).items()} == {
        id_: one["filler"] for id_, one in columns.items()
    }
    assert job("gate", ["-c", str(config_file), "filler>=0"]) == 0
    assert "filler" in capsys.readouterr().out
    page = (Path(config.run_dir).parent / "report.html").read_text()
    assert "Does the student use what it writes?" in page and "not measured" in page


def test_an_interrupted_stage_asks_for_what_is_missing_and_ends_with_the_same_rows(config_file: Path) -> None:
    config, folder = run_of(config_file)
    straight = list(folder.read_records("probes", ProbedAnswer))
    interrupt(folder, "probes", straight[2:], ProbedAnswer)
    probe(config)
    assert list(folder.read_records("probes", ProbedAnswer)) == straight


def test_another_measure_needs_overwrite_which_keeps_what_the_teacher_wrote(
    config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, folder = run_of(config_file)
    options = ["-c", str(config_file), f"run_dir={config.run_dir}", "probing.measures=[following]"]
    written = folder.require("other_rationales", "probe").files
    assert job("probe", options) == 1 and "--overwrite" in capsys.readouterr().err
    assert job("probe", [*options, "--overwrite"]) == 0
    captured = capsys.readouterr()
    assert "other_rationales kept" in captured.err and "following" in captured.out
    assert folder.require("other_rationales", "probe").files == written
    assert set(folder.require("probes", "probe").metrics) == {"following"}


def test_probe_says_what_is_missing_and_what_it_cannot_ask(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["-c", str(config_file), f"run_dir={tmp_path}"]
    assert job("probe", [*options, "probing.measures=[]"]) == 2
    assert "probing.measures is empty" in capsys.readouterr().err
    assert job("probe", options) == 2 and "cotray prepare" in capsys.readouterr().err
    assert job("probe", [*options, "method=human", "methods=[human]"]) == 2
    assert "people wrote none" in capsys.readouterr().err
    config, _ = run_of(config_file)
    dry = ["-c", str(config_file), f"run_dir={config.run_dir}", "--dry-run"]
    assert job("probe", [*dry, "probing.measures=[filler]"]) == 2
    assert "probes was made under another configuration (measures: " in capsys.readouterr().out
    assert job("probe", [*dry, "--overwrite"]) == 0
