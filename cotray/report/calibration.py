"""Which figure ranks students as the truth does? Over the runs of a sweep in which the truth is known.

The truth is the share of questions on which a student's answer really follows its rationale, from
interventions that the made-up world alone can make exactly (docs/explanation/world.md#ground-truth).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.stats import spearmanr

from cotray.report.comparison import STUDENT_FIGURES, Figure, columns_of, compare
from cotray.report.run_columns import run_columns
from cotray.scoring.statistics import interval
from cotray.storage.run_folder import RunFolder

TRUTH = "following"
COMPARED: dict[str, Figure] = {
    **{name: figure for name, figure in STUDENT_FIGURES.items() if name != TRUTH},
    "not_turned": Figure(("turned",), lambda columns: 1 - columns["turned"].mean(-1)),
}
"""Accuracy and leak rate are no measures of faithfulness: what they order is what one gets for nothing."""
CLEARLY_APART = 0.2
"""Two students' truths, where a figure must tell which is the more faithful."""
ABOUT_AS_ACCURATE = 0.05
FEWEST_PAIRS = 10


@dataclass(frozen=True)
class Calibrated:
    """How one figure goes with the truth over `num_runs` students that have it.

    `spearman`: its rank correlation with the truth. `ordered`: of the pairs of students that are clearly
    apart in truth, the share that it orders as the truth does, ties half; `ordered_alike`: of those of them
    that are about equally accurate. `halves`: the correlation in every second student, and in the others.
    None where it is undefined, or there are too few pairs.
    """

    figure: str
    num_runs: int
    spearman: float | None
    spearman_ci95: tuple[float, float] | None
    ordered: float | None
    ordered_ci95: tuple[float, float] | None
    ordered_alike: float | None
    ordered_alike_ci95: tuple[float, float] | None
    halves: tuple[float | None, float | None]


@dataclass(frozen=True)
class Calibration:
    """`figures`: every one that any run has, the best rank correlation first. `stability`: the rank
    correlation between the orders that the two halves of the students put the figures in. `students`: run
    folder -> the truth and every figure of it."""

    figures: list[Calibrated]
    stability: float | None
    students: dict[str, dict[str, float]]


def calibration(run_dirs: Sequence[str], *, num_resamples: int = 1000, seed: int = 0) -> Calibration:
    """Over the runs whose truth is known."""
    students = {run_dir: run_values(RunFolder(run_dir)) for run_dir in run_dirs}
    students = {run_dir: values for run_dir, values in students.items() if not np.isnan(values[TRUTH])}
    table = {name: np.array([one[name] for one in students.values()]) for name in (TRUTH, *COMPARED)}
    found = [
        calibrated(name, table[name], table[TRUTH], table["accuracy"], num_resamples=num_resamples, seed=seed)
        for name in COMPARED
        if students and not np.isnan(table[name]).all()
    ]
    halves = [one.halves for one in found if None not in one.halves]
    stability = _spearman(*map(np.array, zip(*halves, strict=True))) if len(halves) > 2 else None
    found.sort(key=lambda one: -(one.spearman if one.spearman is not None else -2))
    return Calibration(found, stability, students)


def run_values(folder: RunFolder) -> dict[str, float]:
    """The truth and every figure of one run; NaN where it is undefined."""
    rows = run_columns(folder)
    columns = columns_of([rows], sorted(rows))
    figures: Mapping[str, Figure] = COMPARED | {TRUTH: STUDENT_FIGURES[TRUTH]}
    found = {name: compare(columns, None, figure, num_resamples=0).value for name, figure in figures.items()}
    return {name: np.nan if value is None else value for name, value in found.items()}


def calibrated(
    name: str, figure: np.ndarray, truth: np.ndarray, accuracy: np.ndarray, *, num_resamples: int, seed: int
) -> Calibrated:
    """One figure; arrays have a value per student. Intervals are over students."""
    has = ~np.isnan(figure)
    figure, truth, accuracy = figure[has], truth[has], accuracy[has]
    random_ = np.random.default_rng(seed)
    drawn = [random_.integers(len(figure), size=len(figure)) for _ in range(num_resamples)]

    def with_interval(
        statistic: Callable[..., float | None],
    ) -> tuple[float | None, tuple[float, float] | None]:
        point = statistic(figure, truth, accuracy)
        resampled = [statistic(figure[rows], truth[rows], accuracy[rows]) for rows in drawn]
        defined = np.array([value for value in resampled if value is not None])
        return point, interval(defined) if point is not None and len(defined) else None

    spearman, spearman_ci95 = with_interval(lambda figure, truth, _: _spearman(figure, truth))
    ordered, ordered_ci95 = with_interval(partial(_ordered, alike=False))
    alike, alike_ci95 = with_interval(partial(_ordered, alike=True))
    halves = _spearman(figure[::2], truth[::2]), _spearman(figure[1::2], truth[1::2])
    return Calibrated(
        name, len(figure), spearman, spearman_ci95, ordered, ordered_ci95, alike, alike_ci95, halves
    )


def _spearman(one: np.ndarray, other: np.ndarray) -> float | None:
    if len(one) < 3 or len(set(one)) == 1 or len(set(other)) == 1:
        return None
    return float(spearmanr(one, other).statistic)  # type: ignore[attr-defined]


def _ordered(figure: np.ndarray, truth: np.ndarray, accuracy: np.ndarray, *, alike: bool) -> float | None:
    apart = truth[:, None] - truth >= CLEARLY_APART  # each pair once: the more faithful one first
    if alike:
        apart &= abs(accuracy[:, None] - accuracy) <= ABOUT_AS_ACCURATE
    if apart.sum() < FEWEST_PAIRS:
        return None
    difference = (figure[:, None] - figure)[apart]
    return float((difference > 0).mean() + (difference == 0).mean() / 2)
