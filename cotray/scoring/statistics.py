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


def mean_and_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and population standard deviation, as the paper reports figures over seeds (METHOD 3.3)."""
    return float(np.mean(values)), float(np.std(values))


def interval(values: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of resampled values; undefined ones (NaN) are left out."""
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(low), float(high)
