"""Comparisons between methods and the verdicts on claims, against naive loops and by hand."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_ind

from cotray.config.sweep import Cell, Claim, load_sweep
from cotray.errors import ConfigError
from cotray.quality.summary import rationale_columns
from cotray.records import Assessment, Simulation
from cotray.report.claims import AMONG, FAILS, HOLDS, OPEN, UNFINISHED, findings, rate_limit, verdict
from cotray.report.comparison import (
    RATIONALE_FIGURES,
    STUDENT_FIGURES,
    Difference,
    columns_of,
    compare,
    difference,
    student_columns,
)
from cotray.report.sweep import _figures, write_sweep
from cotray.stages.score import figures
from cotray.storage.run_folder import Manifest, RunFolder, fingerprint

SMOKE = Path(__file__).parents[2] / "jobs/configs/smoke.yaml"


def simulation(number: int, *, seed: int, right: float = 0.5) -> Simulation:
    random_ = random.Random(f"{seed} {number}")
    answers = ["yes", "no"]
    said = "yes" if random_.random() < right else "no"
    draw = [random_.choice(answers) for _ in range(5)]
    return Simulation(
        id=f"q{number}", task="yes_no", question="?", choices=("yes", "no"), answer="yes", split="test",
        rationale="So.", student_answer=said, oracle_answer=draw[0] if number % 4 else "",
        perturbed_answer=draw[1], sim_x=draw[2], sim_e=draw[3], sim_xe=draw[4],
    )  # fmt: skip


def columns(rows: list[list[Simulation]]):
    runs = [{row.id: student_columns(row) for row in run} for run in rows]
    return columns_of(runs, sorted(runs[0]))


def test_every_figure_is_the_one_that_score_writes() -> None:
    rows = [simulation(number, seed=3) for number in range(40)]
    written = figures(rows, num_resamples=100, seed=0)
    accuracy = written["accuracy"]["value"]
    expected = {
        "accuracy": accuracy,
        "las": written["las"]["las"],
        "sim_gain": written["las"]["sim_gain"],
        "leak_rate": written["las"]["leak_rate"],
        "perturbation_drop": accuracy - written["perturbed_accuracy"]["value"],
    }
    for name, value in expected.items():
        assert STUDENT_FIGURES[name].value(columns([rows]))[0] == pytest.approx(value), name


def test_an_oracles_gain_is_over_the_questions_that_have_a_teachers_rationale() -> None:
    """A student that the oracle changes nothing for has a gain of 0, also where some have no rationale."""
    rows = [simulation(number, seed=3) for number in range(40)]
    same = [
        Simulation.from_row(row.to_row() | {"oracle_answer": row.oracle_answer and row.student_answer})
        for row in rows
    ]
    none = {name: np.zeros_like(values) for name, values in columns([same]).items()}
    found = difference(columns([same]), none, STUDENT_FIGURES["oracle_gain"], num_resamples=20)
    assert found == Difference(0.0, (0.0, 0.0), 30)
    assert _figures(figures(same, num_resamples=100, seed=0))["oracle_gain"] == 0.0


def test_las_is_undefined_where_a_group_is_empty() -> None:
    rows = [simulation(number, seed=3) for number in range(6)]
    leaking = [Simulation.from_row(row.to_row() | {"sim_e": row.student_answer}) for row in rows]
    assert np.isnan(STUDENT_FIGURES["las"].value(columns([leaking]))).all()
    found = difference(columns([leaking]), columns([rows]), STUDENT_FIGURES["las"], num_resamples=10)
    assert found.value is None and found.ci95 is None and verdict(found) == OPEN
    # Nor is it that of the other runs, if one of them is so.
    assert difference(columns([rows, leaking]), columns([rows]), STUDENT_FIGURES["las"]).value is None


def test_the_difference_is_that_of_means_over_runs_and_zero_with_itself() -> None:
    more = [[simulation(n, seed=s, right=0.9) for n in range(50)] for s in (1, 2, 3)]
    less = [[simulation(n, seed=s) for n in range(50)] for s in (4, 5)]
    found = difference(columns(more), columns(less), STUDENT_FIGURES["accuracy"], num_resamples=200)
    accuracies = [[sum(r.student_answer == "yes" for r in run) / 50 for run in side] for side in (more, less)]
    assert found.value == pytest.approx(sum(accuracies[0]) / 3 - sum(accuracies[1]) / 2)
    assert found.ci95 and found.ci95[0] < (found.value or 0) < found.ci95[1] and verdict(found) == HOLDS
    one = columns(more[:1])
    same = difference(one, one, STUDENT_FIGURES["sim_gain"], num_resamples=50)
    assert same == Difference(0.0, (0.0, 0.0), 50) and verdict(same) == OPEN


def test_resampling_covers_all_pairs_of_questions_as_a_full_enumeration_does() -> None:
    """Three questions, one run: all 27 resamples have a known distribution, which 20,000 draws must match."""
    right = np.array([[1.0, 0.0, 1.0]])
    wrong = np.array([[0.0, 0.0, 1.0]])
    exact = [
        np.mean([right[0, i] - wrong[0, i] for i in drawn]) for drawn in itertools.product(range(3), repeat=3)
    ]
    found = difference({"right": right}, {"right": wrong}, STUDENT_FIGURES["accuracy"], num_resamples=20_000)
    assert found.value == pytest.approx(1 / 3)
    assert found.ci95 == pytest.approx(
        tuple(np.quantile(np.sort(exact), [0.025, 0.975], method="inverted_cdf"))
    )


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [((0.01, 0.2), HOLDS), ((-0.2, -0.01), FAILS), ((-0.1, 0.1), OPEN), ((0.0, 0.2), OPEN), (None, OPEN)],
)
def test_a_verdict_is_by_the_interval_alone(bounds: tuple[float, float] | None, expected: str) -> None:
    assert verdict(Difference(0.1, bounds, 10)) == expected


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ((-0.05, 0.05), HOLDS),
        ((0.01, 0.04), HOLDS),
        ((-0.06, 0.01), OPEN),
        ((0.06, 0.2), FAILS),
        ((-0.2, -0.06), FAILS),
        (None, OPEN),
    ],
)
def test_two_are_alike_where_the_whole_interval_is_near_to_zero(
    bounds: tuple[float, float] | None, expected: str
) -> None:
    assert verdict(Difference(0.0, bounds, 10), within=0.05) == expected


def test_a_figure_alone_is_compared_with_zero() -> None:
    one = columns([[simulation(number, seed=3) for number in range(40)]])
    zero = {name: np.zeros_like(values) for name, values in one.items()}
    figure = STUDENT_FIGURES["accuracy"]
    alone = difference(one, None, figure, num_resamples=100)
    assert alone.value == pytest.approx(figure.value(one)[0])
    assert alone.value == difference(one, zero, figure, num_resamples=100).value
    assert alone.ci95 and 0 < alone.ci95[0] < (alone.value or 0) < alone.ci95[1]


def test_following_is_the_share_of_probed_questions_whose_answer_follows_every_rationale() -> None:
    def probed(number: int, *answers: str) -> Simulation:
        names = ("given yes", "given no", "own") if answers else ()
        asked = {"probes": names, "probe_answers": answers}
        return Simulation.from_row(simulation(number, seed=3).to_row() | asked)

    rows = [probed(0, "yes", "no", "no"), probed(1, "yes", "yes", "no"), probed(2, "yes", "no", "yes")]
    found = difference(columns([rows]), None, STUDENT_FIGURES["following"], num_resamples=50)
    assert found.value == pytest.approx(2 / 3) and found.num_questions == 3
    unknown = difference(columns([[*rows, probed(3)]]), None, STUDENT_FIGURES["following"], num_resamples=50)
    assert unknown.value == pytest.approx(2 / 3) and unknown.num_questions == 3


def test_rationales_are_compared_where_both_have_the_score() -> None:
    def row(number: int, grounded: float | None) -> Assessment:
        return Assessment(
            f"q{number}", "yes_no", "?", ("yes", "no"), "yes", target_answer="yes", grounded=grounded,
            sim_x="no", sim_xe="yes" if number else "no",
        )  # fmt: skip

    sides = [
        columns_of([{r.id: rationale_columns(r) for r in rows}], ["q0", "q1", "q2"])
        for rows in ((row(0, -1.0), row(1, None), row(2, -3.0)), (row(0, -1.5), row(1, -9.0), row(2, -4.0)))
    ]
    found = difference(sides[0], sides[1], RATIONALE_FIGURES["grounded"], num_resamples=50)
    assert found.value == pytest.approx((0.5 + 1.0) / 2) and found.num_questions == 2
    # q0 is not simulated right, the others are with the rationale alone.
    assert RATIONALE_FIGURES["sim_gain"].value(sides[0])[0] == pytest.approx(2 / 3)


def sweep_file(folder: Path, claims: str) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(
        f"config: {SMOKE}\nrun_dir: {folder}/runs\nvary: {{method: [greedy, contrast-wrong]}}\n"
        f"seeds: [1, 2]\nclaims:\n  - {claims}\n"
    )
    return path


CLAIM = "{text: Better., figure: %s, more: contrast-wrong, less: greedy}"


@pytest.mark.parametrize(
    ("claim", "problem"),
    [
        (
            "{text: T., figure: las, more: contrast-wrong, less: human}",
            "compares 'human', which is not exactly one value",
        ),
        ("{text: T., figure: lass, more: contrast-wrong, less: greedy}", "figure"),
    ],
)
def test_a_claim_about_what_is_not_varied_or_measured_is_refused(
    tmp_path: Path, claim: str, problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        load_sweep(sweep_file(tmp_path, claim))


def test_a_named_cell_sets_several_keys_and_is_told_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    cell = "plain: {method: greedy, data.limit: 8}"
    claim = "{text: None., figure: las, more: plain, within: 0.1}"
    path.write_text(
        f"config: {SMOKE}\nrun_dir: {tmp_path}/runs\ncells: {{{cell}}}\nseeds: [1, 2]\nclaims: [{claim}]\n"
    )
    sweep, (plain,) = load_sweep(path)
    assert plain.label == "plain" and [c.run_dir for c in plain.configs] == [
        f"{tmp_path}/runs/plain/seed-{seed}" for seed in (1, 2)
    ]
    assert all((c.method, c.data.limit) == ("greedy", 8) for c in plain.configs)
    write_run(plain, {k: [simulation(n, seed=k) for n in range(9)] for k in (0, 1)})
    found = findings(sweep.claims, [plain], [c.run_dir for c in plain.configs])
    assert found[0].num_runs == (2,) and found[0].difference.num_questions == 9
    table = write_sweep(sweep, [plain], found, [c.run_dir for c in plain.configs])
    assert "plain  2/2" in table and "truth" not in table
    assert "plain, at most 0.1 either way" in (tmp_path / "runs/sweep.html").read_text()
    with pytest.raises(ConfigError, match=r"data\.limit is set by the sweep itself"):
        load_sweep(path, ["data.limit=3"])
    path.write_text(f"config: {SMOKE}\n")
    with pytest.raises(ConfigError, match="nothing is varied: give `vary` or `cells`"):
        load_sweep(path)


def write_run(cell: Cell, rows: dict[int, list[Simulation]]) -> None:
    for index, simulations in rows.items():
        folder = RunFolder(cell.configs[index].run_dir)
        version = fingerprint({}, "")
        folder.write_records("simulations/part-0.parquet", simulations, Simulation, version=version)
        metrics = figures(simulations, num_resamples=100, seed=0)
        folder.finish(Manifest("simulations", {}, "", 60, 60, 0, metrics))


def test_a_sweeps_page_tells_each_claim_once_all_its_runs_are_done(tmp_path: Path) -> None:
    sweep, cells = load_sweep(sweep_file(tmp_path, CLAIM % "accuracy"))
    assert [one.verdict for one in findings(sweep.claims, cells, [])] == [UNFINISHED]
    write_run(cells[0], {k: [simulation(n, seed=k, right=0.1) for n in range(60)] for k in (0, 1)})
    write_run(cells[1], {k: [simulation(n, seed=k + 5, right=0.9) for n in range(60)] for k in (0, 1)})
    run_dirs = [config.run_dir for cell in cells for config in cell.configs]
    (some,) = findings(sweep.claims, cells, run_dirs[:3])
    assert some.verdict == UNFINISHED and some.num_runs == (1, 2) and (some.difference.value or 0) > 0.5
    (found,) = findings(sweep.claims, cells, run_dirs)
    table = write_sweep(sweep, cells, [found], run_dirs)
    assert found.verdict == HOLDS and found.num_runs == (2, 2) and found.difference.num_questions == 60
    assert "holds here: Better. (accuracy, 0." in table
    page = (tmp_path / "runs/sweep.html").read_text()
    assert "Better." in page and "n = 60; 2 and 2 runs" in page
    assert "prefers-color-scheme: dark" in page and 'data-name="accuracy"' in page


def test_what_one_claim_would_say_is_not_said_among_many(tmp_path: Path) -> None:
    sweep, cells = load_sweep(sweep_file(tmp_path, CLAIM % "accuracy"))
    write_run(cells[0], {k: [simulation(n, seed=k, right=0.4) for n in range(60)] for k in (0, 1)})
    write_run(cells[1], {k: [simulation(n, seed=k + 5, right=0.65) for n in range(60)] for k in (0, 1)})
    run_dirs = [config.run_dir for cell in cells for config in cell.configs]
    (alone,) = findings(sweep.claims, cells, run_dirs)
    nothing = Claim(text="It is itself.", figure="accuracy", more="greedy", less="greedy")
    among, *others = findings([*sweep.claims, *[nothing] * 40], cells, run_dirs)
    assert (alone.verdict, among.verdict) == (HOLDS, AMONG) and {one.verdict for one in others} == {OPEN}
    assert among.difference == alone.difference
    twice = findings([*sweep.claims * 20, *[nothing] * 20], cells, run_dirs)
    assert [one.verdict for one in twice] == [HOLDS] * 20 + [OPEN] * 20


@pytest.mark.parametrize(
    ("p_values", "limit"),
    [
        ([0.04], 0.04),
        ([0.06], 0.0),
        # Of five at 5 %: 0.01, 0.02, 0.03, 0.04 and 0.05 are what the first to the fifth may be.
        ([0.2, 0.005, 0.03, 0.9, 0.029], 0.03),
        ([0.2, 0.005, 0.031, 0.9, 0.029], 0.005),
        ([0.049, 0.048, 0.047, 0.046, 0.045], 0.049),
    ],
)
def test_the_limit_for_many_claims_is_benjamini_and_hochbergs(p_values: list[float], limit: float) -> None:
    assert rate_limit(p_values) == limit


def test_the_interval_over_seeds_is_welchs_where_all_questions_are_alike() -> None:
    """Whole runs are right or wrong, so that the questions add nothing."""
    more = np.repeat([[1.0], [1.0], [1.0], [0.0]], 30, axis=1)
    less = np.repeat([[0.0], [0.0], [1.0]], 30, axis=1)
    found = compare({"right": more}, {"right": less}, STUDENT_FIGURES["accuracy"], num_resamples=20)
    for level in (0.95, 0.99):
        expected = ttest_ind(more[:, 0], less[:, 0], equal_var=False).confidence_interval(level)
        assert found.at(level).ci95 == pytest.approx(tuple(expected))


def test_figures_of_a_run_that_was_refused_are_not_shown(tmp_path: Path) -> None:
    """They are there, but of another configuration than the sweep's."""
    sweep, cells = load_sweep(sweep_file(tmp_path, CLAIM % "accuracy"))
    write_run(cells[0], {k: [simulation(n, seed=k) for n in range(9)] for k in (0, 1)})
    table = write_sweep(sweep, cells, [], [cells[0].configs[1].run_dir])
    assert "method=greedy          1/2" in table and "method=contrast-wrong  0/2" in table


def test_a_claim_about_rationales_reads_what_assess_wrote(tmp_path: Path) -> None:
    sweep, cells = load_sweep(sweep_file(tmp_path, CLAIM % "rationale.novel"))
    for cell, novel in zip(cells, (0.2, 0.9), strict=True):
        folder = RunFolder(cell.configs[0].run_dir)
        rows = [
            Assessment(
                f"q{n}", "yes_no", "?", ("yes", "no"), "yes", novel=novel + n / 100, target_answer="yes"
            )
            for n in range(9)
        ]
        folder.write_records("assessments/part-0.parquet", rows, Assessment, version=fingerprint({}, ""))
        folder.finish(Manifest("assessments", {}, "", 9, 9, 0, {}))
    (found,) = findings(sweep.claims, cells, [cell.configs[0].run_dir for cell in cells])
    assert found.difference.value == pytest.approx(0.7) and found.verdict == HOLDS
    assert Claim.model_validate(found.claim.model_dump()) == found.claim
