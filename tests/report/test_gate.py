"""A gate before a student goes out: floors, a baseline, and runs that cannot be compared."""

from __future__ import annotations

from pathlib import Path

import pytest
from finished_runs import finish

from cotray.cli import job
from cotray.config import Method, load_config
from cotray.records import Simulation
from cotray.storage.run_folder import RunFolder

SMOKE = Path(__file__).parents[2] / "jobs/configs/smoke.yaml"
NUM = 100


def simulation(number: int, *, is_right: bool, is_explained: bool) -> Simulation:
    """Half of the rationales leak. The simulator has the answer with the rationale if that explains it, and
    never without."""
    return Simulation(
        id=f"q{number}", task="yes_no", question="?", choices=("yes", "no"), answer="yes", split="test",
        rationale="So.", student_answer="yes" if is_right else "no",
        sim_x="", sim_e=("yes" if is_right else "no") if number % 2 else "",
        sim_xe=("yes" if is_right else "no") if is_explained else "",
    )  # fmt: skip


def write_run(folder: Path, *, num_right: int, num_explained: int, first: int = 0) -> str:
    rows = [simulation(first + n, is_right=n < num_right, is_explained=n < num_explained) for n in range(NUM)]
    finish(RunFolder(str(folder)), "simulations", rows, Simulation)
    return str(folder)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Right in 80, explained in 60 of 100; a better one, and one on other questions."""
    write_run(tmp_path / "mine", num_right=80, num_explained=60)
    write_run(tmp_path / "better", num_right=99, num_explained=61)
    write_run(tmp_path / "other", num_right=80, num_explained=60, first=50)
    return tmp_path


def gate(runs: Path, *arguments: str) -> int:
    return job("gate", ["-c", str(SMOKE), f"run_dir={runs}/mine", *arguments])


def test_a_run_passes_floors_under_its_lower_bounds_and_a_baseline_that_is_no_better(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By hand: 80 of 100 are right (interval 0.72 to 0.87 or so), the simulator gains 60 of 100."""
    assert gate(runs, "accuracy>=0.7", "las>=0.4", "--baseline", f"{runs}/mine") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["passes"] * 4
    assert lines[0].startswith("passes  accuracy: 0.800 [0.7") and lines[0].endswith("is at least 0.7")
    assert lines[1].endswith("is not surely below the baseline's, by 0.000 [0.000, 0.000]")
    assert "las: 0.600" in lines[2]


@pytest.mark.parametrize(
    ("floor", "said"),
    [("accuracy>=0.78", "is not surely at least 0.78"), ("accuracy>=0.95", "is below 0.95")],
)
def test_a_floor_above_the_lower_bound_fails(
    runs: Path, capsys: pytest.CaptureFixture[str], floor: str, said: str
) -> None:
    assert gate(runs, floor, "las>=0.1") == 1
    captured = capsys.readouterr()
    first, second = captured.out.splitlines()
    assert first.startswith("FAILS ") and first.endswith(said) and second.startswith("passes")
    assert captured.err == "cotray: 1 of 2 checks failed\n"


def test_a_figure_significantly_below_the_baselines_fails_and_one_that_is_not_passes(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Accuracy is 0.19 lower; LAS 0.01 lower, on the same questions."""
    assert gate(runs, "--baseline", f"{runs}/better") == 1
    las, accuracy = capsys.readouterr().out.splitlines()
    assert las.startswith("passes") and "is not surely below the baseline's" in las
    assert accuracy.startswith("FAILS") and "accuracy: is below the baseline's, by -0.19" in accuracy


def test_a_run_on_other_questions_is_no_baseline(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gate(runs, "--baseline", f"{runs}/other") == 2
    said = capsys.readouterr().err
    assert "test questions are others (shared are 50 of this run's 100)" in said and "same data" in said


def test_an_undefined_figure_passes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No rationale leaks, so that LAS has an empty group."""
    rows = [simulation(2 * n, is_right=True, is_explained=True) for n in range(NUM)]
    finish(RunFolder(str(tmp_path / "mine")), "simulations", rows, Simulation)
    assert gate(tmp_path, "las>=-1") == 1
    assert "FAILS   las: undefined for these rows" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((), "nothing to check; give a floor"),
        (("lass>=0.1",), "'lass>=0.1': a floor is FIGURE>=NUMBER, with one of accuracy, las"),
        (("las>=much",), "'much' is not a number"),
        (("las>=0", "--baseline", "/no/such/run"), "run `cotray score` first"),
        (("las>=0", "run_dir=/no/such/run"), "nothing is scored of contrast-wrong+counterfactual"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    runs: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], problem: str
) -> None:
    assert gate(runs, *arguments) == 2
    captured = capsys.readouterr()
    assert problem in captured.err and captured.err.count("\n") == 1 and captured.out == ""


def test_of_a_run_over_several_methods_the_named_one_is_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [f"run_dir={tmp_path}/run", "methods=[greedy, contrast-wrong]"]
    config = load_config(SMOKE, options)
    num_rights: dict[Method, int] = {"greedy": 50, "contrast-wrong": 90}
    for method, num_right in num_rights.items():
        write_run(Path(config.for_method(method).run_dir), num_right=num_right, num_explained=30)
    command = ["-c", str(SMOKE), *options, "accuracy>=0.7"]
    assert job("gate", [*command, "method=contrast-wrong"]) == 0
    assert job("gate", [*command, "method=greedy"]) == 1
