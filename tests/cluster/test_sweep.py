"""A sweep: its cells, what they share, and its figures over seeds; one small sweep on a real cluster."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from cotray.config.sweep import load_sweep, runs
from cotray.errors import ConfigError, StageError
from cotray.records import Rationale, StudentAnswer
from cotray.report.sweep import mean_over_seeds
from cotray.stages import sweep as sweep_module
from cotray.storage.run_folder import RunFolder

SMOKE = Path(__file__).parents[2] / "jobs/configs/smoke.yaml"


def write(folder: Path, text: str) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(f"config: {SMOKE}\nrun_dir: {folder}/runs\n{text}")
    return path


def test_each_key_is_varied_alone_and_equal_configurations_share_a_run(tmp_path: Path) -> None:
    text = """
base: {teacher.decoding.weight: 0.5}
vary:
  teacher.decoding.weight: [0, 0.5]
  student.training.tags: ["on", "off"]
seeds: [7, 8]
"""
    _, cells = load_sweep(write(tmp_path, text), ["data.limit=12"])
    assert [(cell.key.split(".")[-1], cell.value) for cell in cells] == [
        ("weight", 0),
        ("weight", 0.5),
        ("tags", "on"),
        ("tags", "off"),
    ]
    assert [[c.student.training.seed for c in cell.configs] for cell in cells] == [[7, 8]] * 4
    assert all(c.data.limit == 12 for cell in cells for c in cell.configs)
    # weight 0.5 with tags on is the base, under either key.
    assert cells[1].configs == cells[2].configs
    in_order = [config.run_dir.removeprefix(f"{tmp_path}/runs/") for config in runs(cells)]
    assert in_order == [
        f"{name}/seed-{seed}"
        for seed in (7, 8)
        for name in ("teacher.decoding.weight=0", "teacher.decoding.weight=0.5", "student.training.tags=off")
    ]


@pytest.mark.parametrize(
    "path", sorted((SMOKE.parent.parent / "sweeps").glob("*.yaml")), ids=lambda p: p.name
)
def test_every_sweep_in_the_repository_resolves(path: Path) -> None:
    sweep, cells = load_sweep(path)
    assert len(cells) == sum(map(len, sweep.vary.values())) + len(sweep.cells)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("vary: {}", "vary"),
        ("vary: {student.training.tag: [a]}", "unknown key 'student.training.tag'; did you mean"),
        ("vary: {teacher.decoding.weight: [2]}", "teacher.decoding.weight"),
        ("varied: {seed: [1]}\nvary: {seed: [1]}", "unknown key 'varied'; did you mean 'vary'"),
        ("vary: {seed: [1]}\nseeds: []", "seeds"),
    ],
)
def test_a_mistake_is_found_before_anything_runs(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_sweep(write(tmp_path, text))
    assert problem in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "override", ["student.training.seed=4", "simulator.training.seed=4", "method=greedy"]
)
def test_what_the_sweep_sets_itself_is_not_overridden_in_silence(tmp_path: Path, override: str) -> None:
    path = write(tmp_path, "vary: {method: [human]}")
    with pytest.raises(ConfigError, match=f"{override.partition('=')[0]} is set by the sweep itself"):
        load_sweep(path, [override])
    with pytest.raises(ConfigError, match="set by the sweep itself"):
        load_sweep(write(tmp_path, "vary: {student.training.seed: [1]}"))


def test_a_sweep_goes_to_another_folder_where_told(tmp_path: Path) -> None:
    sweep, (cell,) = load_sweep(write(tmp_path, "vary: {method: [human]}\nseeds: [3]"), ["run_dir=elsewhere"])
    assert sweep.run_dir == "elsewhere" and cell.configs[0].run_dir == "elsewhere/method=human/seed-3"
    assert cell.configs[0].student.training.seed == cell.configs[0].simulator.training.seed == 3


def test_a_run_without_a_seed_of_its_own_trains_with_the_runs_seed() -> None:
    from cotray.config import parse_config

    assert parse_config({"seed": 5}).student.training.seed_or(5) == 5
    assert parse_config({"student": {"training": {"seed": 0}}}).student.training.seed_or(5) == 0
    assert parse_config({"student": {"training": {"tags": False}}}).student.training.tags == "off"


def test_the_interval_over_seeds_is_students_t() -> None:
    """Of 0.1, 0.2, 0.6 by hand: mean 0.3, s 0.2646, t(2) 4.3027, half width 0.6573."""
    figures = mean_over_seeds([0.1, 0.2, 0.6])
    assert figures.mean == pytest.approx(0.3) and figures.ci95
    assert figures.ci95[1] - 0.3 == pytest.approx(4.302653 * statistics.stdev([0.1, 0.2, 0.6]) / 3**0.5)
    assert figures.ci95[1] == pytest.approx(0.9573, abs=1e-4)
    assert mean_over_seeds([0.1]).ci95 is None and mean_over_seeds([0.1]).mean == 0.1
    assert mean_over_seeds([0.1, None]).mean is None, "not a mean over what happens to be defined"
    assert mean_over_seeds([None]).mean is None


def sweep_of_runs_that_raise(
    errors: Sequence[BaseException], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs, each of which ends with its error."""
    left = iter(errors)

    def run_stages(*_: Any, **__: Any) -> None:
        raise next(left)

    monkeypatch.setattr(sweep_module, "run_stages", run_stages)
    monkeypatch.setattr(sweep_module, "cluster", lambda *_: nullcontext())
    monkeypatch.setattr(sweep_module, "tell_what_lacks", lambda *_: None)
    sweep_module.sweep(*load_sweep(write(folder, "vary: {method: [greedy, human]}\nseeds: [1]")))


def test_a_run_that_ray_lost_is_named_with_its_cause_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.exceptions import OutOfMemoryError, RayTaskError

    text = "Traceback (most recent call last):\n  File x\nValueError: too hot\n\nUserCodeException: no block"
    errors = [
        OutOfMemoryError("Task was killed:\nlow memory"),
        RayTaskError("f", text, ValueError("too hot")),
    ]
    with pytest.raises(StageError) as caught:
        sweep_of_runs_that_raise(errors, tmp_path, monkeypatch)
    assert str(caught.value).partition("\n")[0] == (
        f"2 of 2 runs failed ({tmp_path}/runs/method=greedy/seed-1: Task was killed: low memory; "
        f"{tmp_path}/runs/method=human/seed-1: ValueError: too hot)"
    )


@pytest.mark.parametrize("error", [KeyboardInterrupt(), KeyError("a bug")], ids=repr)
def test_an_interrupt_and_a_bug_of_the_driver_end_the_sweep(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(type(error)) as caught:
        sweep_of_runs_that_raise([error], tmp_path, monkeypatch)
    assert caught.value is error


@pytest.fixture(scope="module")
def swept(shared_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student, a broken one and a prompted teacher, two seeds, tiny models."""
    from cotray.commands.sweep import main

    folder = tmp_path_factory.mktemp("sweep")
    text = """
base:
  teacher.engine: fake
  simulator.mode: prompted
  scoring.max_new_tokens: 8
vary:
  student.training.tags: ["off"]
  student.model: [random:nonsense]
  method: [few-shot]
seeds: [1, 2]
"""
    assert main(["-c", str(write(folder, text))]) == 1
    return folder / "runs"


@pytest.mark.ray
def test_a_sweep_has_every_run_but_the_broken_ones_and_says_so(swept: Path) -> None:
    table = json.loads((swept / "sweep.json").read_text())
    assert [(row["value"], row["num_runs"]) for row in table["rows"]] == [
        ("off", 2),
        ("random:nonsense", 0),
        ("few-shot", 2),
    ]
    accuracies = [
        RunFolder(str(swept / f"student.training.tags=off/seed-{seed}"))
        .require("simulations", "score")
        .metrics["accuracy"]["value"]
        for seed in (1, 2)
    ]
    assert table["rows"][0]["figures"]["accuracy"]["values"] == accuracies
    assert table["rows"][0]["figures"]["accuracy"]["mean"] == pytest.approx(sum(accuracies) / 2)
    page = (swept / "sweep.html").read_text()
    assert "<svg" in page and "random:nonsense" in page and "http-equiv" not in page


@pytest.mark.ray
def test_the_teacher_wrote_once_for_all_runs_with_its_settings(swept: Path) -> None:
    folders = [swept / f"student.training.tags=off/seed-{seed}" for seed in (1, 2)]
    rows = [list(RunFolder(str(folder)).read_records("rationales", Rationale)) for folder in folders]
    assert all(each == rows[0] for each in rows)
    made = [
        RunFolder(str(folder)).require("rationales", "generate").metrics["last_run"]["made"]
        for folder in folders
    ]
    assert made == [len(rows[0]), 0]


@pytest.mark.ray
def test_a_prompted_teacher_trains_nothing(swept: Path) -> None:
    few_shot = RunFolder(str(swept / "method=few-shot/seed-1"))
    assert few_shot.require("student", "train").metrics["factual"] == 0
    assert not (swept / "method=few-shot/seed-1/student/model.safetensors").exists()
    answers = list(few_shot.read_records("answers", StudentAnswer))
    assert answers and {row.method for row in answers} == {"few-shot"}
    # The second seed is the simulator's alone; its answers are taken over.
    again = RunFolder(str(swept / "method=few-shot/seed-2"))
    assert list(again.read_records("answers", StudentAnswer)) == answers


@pytest.mark.ray
def test_the_students_seed_alone_changes_the_weights(swept: Path) -> None:
    weights = [
        (swept / f"student.training.tags=off/seed-{seed}/student/model.safetensors").read_bytes()
        for seed in (1, 2)
    ]
    assert weights[0] != weights[1]


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.usefixtures("shared_cluster")
def test_a_model_that_cannot_be_loaded_costs_its_own_run_alone_and_people_teach_what_they_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from cotray.commands.sweep import main

    text = """
base: {simulator.mode: prompted, scoring.max_new_tokens: 8}
vary:
  teacher.model: [/no/such/model]
  method: [human]
seeds: [1]
"""
    assert main(["-c", str(write(tmp_path, text))]) == 1
    why = "model '/no/such/model': no such folder with a config.json"
    said = capsys.readouterr().err.splitlines()
    early, line = (line for line in said if line.startswith("cotray: "))
    assert early == f"cotray: teacher.{why}"
    assert "1 of 2 runs failed" in line and line.endswith("seed-1: " + why + ")")
    table = json.loads((tmp_path / "runs" / "sweep.json").read_text())
    assert [(row["value"], row["num_runs"]) for row in table["rows"]] == [("/no/such/model", 0), ("human", 1)]
    human = RunFolder(str(tmp_path / "runs/method=human/seed-1"))
    rows = list(human.read_records("rationales", Rationale))
    assert rows and all(row.rationale == row.human_rationale and row.rationale for row in rows)


@pytest.mark.ray
@pytest.mark.long
def test_a_changed_setting_is_refused_until_told_to_overwrite(
    swept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from cotray.commands.sweep import main

    folder = swept.parent
    text = """
base: {teacher.engine: fake, simulator.mode: prompted, scoring.max_new_tokens: 9}
vary: {method: [few-shot]}
seeds: [1]
"""
    path = str(write(folder, text))
    assert main(["-c", path]) == 1
    said = capsys.readouterr().err
    assert "max_new_tokens" in said and "--overwrite" in said
    assert main(["-c", path, "--overwrite"]) == 0
    made = RunFolder(str(swept / "method=few-shot/seed-1")).require("answers", "score")
    assert made.settings["max_new_tokens"] == 9
