"""Intervals and summaries of figures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def accuracy_ci95(
    is_correct: Sequence[bool], *, num_resamples: int = 10_000, seed: int = 0
) -> tuple[float, float] | None:
    """Bootstrap interval of a mean of zeros and ones; None without rows."""
    if not len(is_correct):
        return None
    mean = float(np.mean(is_correct))
    draws = np.random.default_rng(seed).binomial(len(is_correct), mean, size=num_resamples) / len(is_correct)
    return interval(draws)


def mean_ci95(
    values: Sequence[float], *, num_resamples: int = 1000, seed: int = 0
) -> tuple[float, float] | None:
    """Bootstrap interval of a mean; None without rows."""
    if not len(values):
        return None
    draws = np.random.default_rng(seed).integers(len(values), size=(num_resamples, len(values)))
    return interval(np.asarray(values)[draws].mean(1))


def auc_ci95(
    high: Sequence[float], low: Sequence[float], *, num_resamples: int = 1000, seed: int = 0
) -> tuple[float, tuple[float, float]]:
    """P(a value of `high` > one of `low`), ties half, with its bootstrap interval.

    Row i of both belongs together, so rows are resampled as pairs. Raises ValueError unless both have the
    same number of rows, at least one.
    """
    if len(high) != len(low) or not len(high):
        raise ValueError("high and low must have the same number of rows, at least one")
    both = np.stack([high, low])
    draws = np.random.default_rng(seed).integers(len(high), size=(num_resamples, len(high)))
    return _auc(both), interval(np.array([_auc(both[:, rows]) for rows in draws]))


def _auc(both: np.ndarray) -> float:
    high, low = both[0], np.sort(both[1])
    below = np.searchsorted(low, high, "left") + np.searchsorted(low, high, "right")
    return float(below.mean() / (2 * len(low)))


def mean_and_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and population standard deviation, as the paper reports figures over seeds (METHOD 3.3)."""
    return float(np.mean(values)), float(np.std(values))


def interval(values: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of resampled values; undefined ones (NaN) are left out."""
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(low), float(high)
