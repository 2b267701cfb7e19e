"""Intervals and summaries of figures."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence

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
    values: Sequence[float],
    *,
    ids: Sequence[Hashable] | None = None,
    num_resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Bootstrap interval of a mean; None without rows. `ids`: of each row's question, see `resamples`."""
    if not len(values):
        return None
    array = np.asarray(values)
    drawn = resamples(ids if ids is not None else range(len(values)), num_resamples, seed)
    return interval(np.array([array[rows].mean() for rows in drawn]))


def auc_ci95(
    high: Sequence[float],
    low: Sequence[float],
    *,
    ids: Sequence[Hashable] | None = None,
    num_resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, tuple[float, float]]:
    """P(a value of `high` > one of `low`), ties half, with its bootstrap interval.

    Row i of both belongs together, so rows are resampled as pairs; `ids`: of their questions. Raises
    ValueError unless both have the same number of rows, at least one.
    """
    if len(high) != len(low) or not len(high):
        raise ValueError("high and low must have the same number of rows, at least one")
    both = np.stack([high, low])
    drawn = resamples(ids if ids is not None else range(len(high)), num_resamples, seed)
    return _auc(both), interval(np.array([_auc(both[:, rows]) for rows in drawn]))


def resamples(ids: Iterable[Hashable], num_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """The rows of each resample, one resample in memory at a time.

    What is drawn are ids, each with all of its rows: several rationales of one question are no more
    independent questions.
    """
    places: dict[Hashable, int] = {}
    group_of_row = np.array([places.setdefault(id_, len(places)) for id_ in ids])
    rows_by_group = np.argsort(group_of_row, kind="stable")
    sizes = np.bincount(group_of_row)
    starts = np.cumsum(sizes) - sizes
    random_ = np.random.default_rng(seed)
    for _ in range(num_resamples):
        groups = random_.integers(len(sizes), size=len(sizes))
        # Group g's rows are rows_by_group[starts[g] :][: sizes[g]]: all of these ranges, end to end.
        ends = np.cumsum(sizes[groups])
        shifts = np.repeat(starts[groups] - ends + sizes[groups], sizes[groups])
        yield rows_by_group[shifts + np.arange(ends[-1])]


def _auc(both: np.ndarray) -> float:
    high, low = both[0], np.sort(both[1])
    below = np.searchsorted(low, high, "left") + np.searchsorted(low, high, "right")
    return float(below.mean() / (2 * len(low)))


def mean_and_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and population standard deviation, as SCOTT reports figures over seeds."""
    return float(np.mean(values)), float(np.std(values))


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The middle of resampled values, at 0.95 so many of them; undefined ones (NaN) are left out."""
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
