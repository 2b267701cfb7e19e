"""How figures go with a known truth, against naive loops and ranks by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cotray.report.calibration import ABOUT_AS_ACCURATE, CLEARLY_APART, calibrated

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
    assert one.ordered_ci95 and one.ordered_ci95[0] < one.ordered < one.ordered_ci95[1]


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
