"""How figures go with a known truth, against naive loops and ranks by hand."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from finished_runs import finish

from cotray.records import ProbedAnswer, QAPair, Record, Simulation
from cotray.report.calibration import (
    ABOUT_AS_ACCURATE,
    CLEARLY_APART,
    calibrated,
    calibration,
    run_values,
)
from cotray.report.plots import students_svg
from cotray.storage.run_folder import RunFolder, fingerprint

RANDOM = np.random.default_rng(0)
TRUTH = RANDOM.random(24)
ACCURACY = RANDOM.random(24) / 5


def found(figure: np.ndarray, *, truth: np.ndarray = TRUTH, accuracy: np.ndarray = ACCURACY):
    return calibrated("las", figure, truth, accuracy, num_resamples=200, seed=0)


def naive_order(figure: np.ndarray, *, alike: bool) -> float:
    """Over every pair, one by one."""
    right = []
    for one, other in itertools.combinations(range(len(TRUTH)), 2):
        more, less = (one, other) if TRUTH[one] > TRUTH[other] else (other, one)
        if TRUTH[more] - TRUTH[less] < CLEARLY_APART:
            continue
        if alike and abs(ACCURACY[more] - ACCURACY[less]) > ABOUT_AS_ACCURATE:
            continue
        right.append(0.5 if figure[more] == figure[less] else float(figure[more] > figure[less]))
    return sum(right) / len(right)


def test_a_figure_that_rises_with_the_truth_has_one_and_one_that_falls_minus_one() -> None:
    rises, falls = found(TRUTH**3), found(-TRUTH)
    assert (rises.spearman, rises.ordered, rises.ordered_alike) == (pytest.approx(1), 1, 1)
    assert (falls.spearman, falls.ordered) == (pytest.approx(-1), 0)
    assert rises.halves == (pytest.approx(1), pytest.approx(1)) and rises.num_runs == 24


def test_pairs_are_counted_as_a_loop_counts_them_ties_as_half() -> None:
    figure = np.round(TRUTH + RANDOM.normal(0, 0.3, 24), 1)
    one = found(figure)
    assert one.ordered == pytest.approx(naive_order(figure, alike=False))
    assert one.ordered_alike == pytest.approx(naive_order(figure, alike=True))
    assert one.ordered is not None and one.ordered_ci95 is not None
    assert one.ordered_ci95[0] < one.ordered < one.ordered_ci95[1]


def test_the_rank_correlation_is_that_of_ranks_by_hand() -> None:
    """Ranks 1 2 3 4 5 against 2 1 4 3 5: 1 - 6 * 4 / (5 * 24)."""
    truth, figure = np.array([0.1, 0.2, 0.3, 0.4, 0.5]), np.array([20.0, 10, 40, 30, 50])
    one = found(figure, truth=truth, accuracy=np.zeros(5))
    assert one.spearman == pytest.approx(0.8)
    assert one.ordered is None, "six pairs are too few"


def test_a_student_without_the_figure_is_left_out_and_a_constant_has_no_rank() -> None:
    figure = TRUTH.copy()
    figure[:4] = np.nan
    assert found(figure).num_runs == 20 and found(figure).spearman == pytest.approx(1)
    constant = found(np.zeros(24))
    assert (constant.spearman, constant.spearman_ci95, constant.ordered) == (None, None, 0.5)
    noise = found(RANDOM.random(24))
    assert noise.spearman_ci95 and noise.spearman_ci95[0] < 0 < noise.spearman_ci95[1]


def write_run(root: Path, faithful: int) -> str:
    """Of a student that follows its rationale on so many of 30 questions, and is right on every second."""
    folder, answers, probes = RunFolder(str(root)), [], []
    for number in range(30):
        pair = QAPair(f"q{number}", "yes_no", "Q?", ("yes", "no"), "yes", "test")
        follows = number < faithful
        said = "yes" if number % 2 else "no"
        own = {"student_answer": said, "rationale": "R.", "oracle_answer": said, "perturbed_answer": said}
        truth = {"probes": ["given yes", "given no"], "probe_answers": ["yes", "no" if follows else "yes"]}
        observed = {"sim_x": "no", "sim_e": "yes", "sim_xe": said if follows else "no"}
        answers.append(Simulation.from_row(pair.to_row() | own | truth | observed))
        asked = ["no mistake", "mistake", "cue Really: no"]
        said_then = ["yes", "no" if follows else "yes", "yes" if follows else "no"]
        texts = {"probe_questions": ["Q?"] * 3, "probe_rationales": ["R."] * 3}
        probe = {"probes": asked, "probe_answers": said_then}
        probes.append(ProbedAnswer.from_row(pair.to_row() | own | probe | texts))
    finish(folder, "rationales", [], Record)
    finish(folder, "student", [], Record)
    finish(folder, "simulations", answers, Simulation)
    made_from = [folder.require(stage, "").fingerprint for stage in ("student", "rationales")]
    finish(folder, "probes", probes, ProbedAnswer, input=fingerprint(*made_from))
    return folder.root


def test_runs_are_ranked_by_their_rows_and_figures_that_no_run_has_are_left_out(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / f"{faithful:02d}", faithful) for faithful in range(0, 30, 2)]
    assert run_values(RunFolder(folders[6])) == pytest.approx(
        {
            "following": 0.4,
            "mistake": 0.4,
            "not_turned": 0.4,
            "accuracy": 0.5,
            "leak_rate": 0.5,
            "mentioned": 0,
        }
        | {"sim_gain": 6 / 30, "oracle_gain": 0, "perturbation_drop": 0, "las": 0.2}
        | {"early_answering": np.nan, "filler": np.nan},
        nan_ok=True,
    )
    found = calibration(folders, num_resamples=50)
    by_name = {one.figure: one for one in found.figures}
    for name in ("mistake", "not_turned", "sim_gain"):
        assert by_name[name].spearman == pytest.approx(1), name
        assert by_name[name].ordered == 1 and by_name[name].num_runs == 15
    assert by_name["accuracy"].spearman is None and by_name["accuracy"].ordered == 0.5
    assert not {"early_answering", "filler", "following"} & by_name.keys()
    assert found.figures[0].spearman == pytest.approx(1)
    assert found.stability is None, "figures that are all as good have no order"
    assert list(found.students) == folders and found.students[folders[6]]["following"] == pytest.approx(0.4)
    assert students_svg(found).count("<svg") == 1
    assert calibration([]).figures == []


def test_probes_of_another_student_do_not_count(tmp_path: Path) -> None:
    folder = RunFolder(write_run(tmp_path / "run", 12))
    assert run_values(folder)["mistake"] == pytest.approx(0.4)
    finish(folder, "student", [], Record, settings={"seed": 2})
    assert np.isnan(run_values(folder)["mistake"])
