"""Intervals, against the normal approximation, by hand, and against questions with several rationales."""

from __future__ import annotations

import numpy as np
import pytest

from cotray.scoring.las import las
from cotray.scoring.statistics import auc_ci95, mean_ci95, resamples


def test_auc_counts_pairs_and_half_of_the_ties() -> None:
    """Of the nine pairs: 3 > 1, 2, 2.5; 2 > 1, ties 2; 1 ties 1: 3 + 1.5 + 0.5 = 5 of 9."""
    value, (low, high) = auc_ci95([3, 2, 1], [1, 2, 2.5])
    assert value == pytest.approx(5 / 9) and low <= value <= high
    assert auc_ci95([1.0] * 5, [0.0] * 5) == (1.0, (1.0, 1.0))
    with pytest.raises(ValueError, match="same number of rows"):
        auc_ci95([1.0], [])


def test_the_interval_of_a_mean_is_about_that_of_the_normal_approximation() -> None:
    values = np.random.default_rng(1).normal(5, 2, 400)
    low, high = mean_ci95(values.tolist()) or (0, 0)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.04)
    assert mean_ci95([]) is None


def test_intervals_are_over_questions_however_often_each_was_drawn() -> None:
    """Four times the same rationale is one observation: the interval is that of one draw per question, where
    rows taken for independent ones would halve it."""
    values = np.random.default_rng(1).normal(5, 2, 100)
    once = mean_ci95(values.tolist(), ids=range(100)) or (0, 0)
    assert once == mean_ci95(values.tolist())
    repeated, ids = np.repeat(values, 4).tolist(), np.repeat(np.arange(100), 4).tolist()
    assert mean_ci95(repeated, ids=ids) == pytest.approx(once)
    low, high = mean_ci95(repeated) or (0, 0)
    assert high - low == pytest.approx((once[1] - once[0]) / 2, rel=0.15)
    pairs = (values, values + np.random.default_rng(2).normal(0, 3, 100))
    alone, four_times = (
        auc_ci95(
            *(np.repeat(side, times).tolist() for side in pairs),
            ids=np.repeat(np.arange(100), times).tolist(),
        )
        for times in (1, 4)
    )
    assert four_times[1] == pytest.approx(alone[1], abs=1e-9)


def test_rows_of_a_question_are_drawn_together_whatever_their_number() -> None:
    """By hand: the same draws of groups, their rows listed one group after another."""
    ids = ["b", "a", "b", "c", "b"]
    rows = {0: [0, 2, 4], 1: [1], 2: [3]}
    random_ = np.random.default_rng(7)
    for drawn in resamples(ids, 20, 7):
        assert drawn.tolist() == [row for group in random_.integers(3, size=3) for row in rows[group]]


def test_las_of_repeated_rows_has_the_interval_of_the_questions() -> None:
    random_ = np.random.default_rng(3)
    right = random_.integers(2, size=(3, 200)).astype(float)
    alone = las([1.0] * 200, *right.tolist())
    four_times, ids = np.repeat(right, 4, axis=1).tolist(), np.repeat(np.arange(200), 4).tolist()
    repeated = las([1.0] * 800, *four_times, ids=ids)
    assert repeated.las == alone.las
    assert repeated.ci95 == pytest.approx(alone.ci95, abs=0.02)
