"""Curves are the measures of planted students, and their correlation with what was set is one of ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cotray.bench.planted_curves import spearman, summarise
from cotray.scoring.las import las

FAITHFUL = (0.0, 0.5, 1.0)


def columns(num_seeds: int = 2, num_questions: int = 60) -> dict[str, np.ndarray]:
    """Right or wrong by coin, and QUALS of every third question."""
    random_ = np.random.default_rng(0)
    shape = (num_seeds, len(FAITHFUL), num_questions)
    names = ("right", "oracle", "perturbed", "x", "e", "xe", "following")
    drawn: dict[str, Any] = {name: random_.integers(2, size=shape).astype(float) for name in names}
    judged = np.where(np.arange(num_questions) % 3 == 0, random_.normal(size=shape), np.nan)
    return drawn | {"quals": judged, "quals_delta": judged + 1}


def test_a_value_is_the_mean_over_seeds_of_what_las_says_of_each_student() -> None:
    drawn = columns()
    summary = summarise(drawn, FAITHFUL, num_resamples=20, seed=0)
    for place, value in enumerate(FAITHFUL):
        reports = [
            las(*([1] * 60, *(drawn[arm][seed, place] for arm in ("x", "e", "xe"))), num_resamples=10)
            for seed in range(2)
        ]
        mean = sum(report.las or 0 for report in reports) / 2
        assert summary[f"las.{value:.1f}"] == pytest.approx(mean)
        low, high = summary[f"las.{value:.1f}.ci95"]
        assert low <= high
        drop = drawn["right"][:, place].mean() - drawn["perturbed"][:, place].mean()
        assert summary[f"perturbation_drop.{value:.1f}"] == pytest.approx(drop)
        known = [v for seed in drawn["quals"][:, place] for v in seed if not np.isnan(v)]
        assert summary[f"quals.{value:.1f}"] == pytest.approx(sum(known) / 40)


def test_correlation_is_of_ranks_over_all_students_and_undefined_for_a_constant() -> None:
    # Ranks 1, 2, 3 against 1, 3, 2: 1 - 6 * (0 + 1 + 1) / (3 * 8).
    assert spearman(np.array([[0.1, 9.0, 0.2]]), FAITHFUL) == pytest.approx(0.5)
    assert spearman(np.array([[0.0, 0.1, 70.0], [0.01, 0.2, 80.0]]), FAITHFUL) == pytest.approx(0.956183)
    assert np.isnan(spearman(np.zeros((2, 3)), FAITHFUL))
