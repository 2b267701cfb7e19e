"""Is one figure above another? Paired over questions, with what another training run would change.

An interval covers two sources of chance: which questions were asked, and which seed the student was trained
with. The first is resampled, the same questions for both sides. The second cannot be: resamples of three runs
have two thirds of their variance, and know no tails (docs/explanation/method.md#figures-over-seeds).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.stats import t as student_t

from cotray.quality.summary import SCORES
from cotray.records import Simulation, normalized, same_answer
from cotray.scoring.probes import follows_all
from cotray.scoring.statistics import interval

Columns = Mapping[str, np.ndarray]
"""Of one or more runs: each array ends with one value per question; NaN where a question has none."""


@dataclass(frozen=True)
class Difference:
    """`value`: the one side's figure minus the other's, means over their runs; None where undefined."""

    value: float | None
    ci95: tuple[float, float] | None
    num_questions: int

    @property
    def sign(self) -> int:
        """By the interval alone: 1 above zero, -1 below, 0 where it includes zero or is undefined."""
        if self.ci95 is None:
            return 0
        return int(self.ci95[0] > 0) - int(self.ci95[1] < 0)


def student_columns(row: Simulation) -> dict[str, float]:
    """What is right about one test question, as 0 and 1; NaN where it was not asked."""
    gold, said = normalized(row.answer), row.student_answer
    return {
        "right": normalized(said) == gold,
        "oracle": normalized(row.oracle_answer) == gold if row.oracle_answer else np.nan,
        "perturbed": normalized(row.perturbed_answer) == gold,
        "followed": np.nan if (followed := follows_all(row)) is None else followed,
        **{arm: same_answer(getattr(row, f"sim_{arm}"), said) for arm in ("x", "e", "xe")},
    }


@dataclass(frozen=True)
class Figure:
    """`value` maps columns to one number per run; questions without one of `needs`, on either side, are left
    out."""

    needs: tuple[str, ...]
    value: Callable[[Columns], np.ndarray]


def _mean(name: str) -> Figure:
    return Figure((name,), lambda columns: columns[name].mean(-1))


def _minus(one: str, other: str) -> Figure:
    return Figure((one, other), lambda columns: columns[one].mean(-1) - columns[other].mean(-1))


def _las(columns: Columns) -> np.ndarray:
    """docs/explanation/method.md#las; NaN where a group is empty."""
    gain, leaks = columns["xe"] - columns["x"], columns["e"] == 1
    return (_mean_where(leaks, gain) + _mean_where(~leaks, gain)) / 2


STUDENT_FIGURES = {
    "accuracy": _mean("right"),
    "las": Figure(("x", "e", "xe"), _las),
    "sim_gain": _minus("xe", "x"),
    "leak_rate": _mean("e"),
    "oracle_gain": _minus("oracle", "right"),
    "perturbation_drop": _minus("right", "perturbed"),
    "following": _mean("followed"),
    **{name: _mean(name) for name in ("early_answering", "filler", "mistake", "mentioned")},
}
"""The last four need what `probe` adds, see report/run_columns.py."""
RATIONALE_FIGURES = {
    **{name: _mean(name) for name in SCORES},
    "sim_gain": _minus("xe", "x"),
    "las": Figure(("x", "e", "xe"), _las),
}


def columns_of(runs: Sequence[Mapping[str, Mapping[str, float]]], ids: Sequence[str]) -> Columns:
    """Runs as `question id -> columns`, stacked to arrays of shape (runs, questions)."""
    names = runs[0][ids[0]]
    return {name: np.array([[run[id_][name] for id_ in ids] for run in runs], dtype=float) for name in names}


@dataclass(frozen=True)
class Comparison:
    """A difference before it is decided how sure its interval shall be. `value` is None where undefined."""

    value: float | None
    num_questions: int
    bounds: Callable[[float], tuple[float, float]]
    """The interval at a level such as 0.95."""

    def at(self, level: float) -> Difference:
        bounds = None if self.value is None else self.bounds(level)
        return Difference(self.value, bounds, self.num_questions)


def difference(
    more: Columns, less: Columns | None, figure: Figure, *, num_resamples: int = 2000, seed: int = 0
) -> Difference:
    """With its 95 % interval; see `compare`."""
    return compare(more, less, figure, num_resamples=num_resamples, seed=seed).at(0.95)


def compare(
    more: Columns, less: Columns | None, figure: Figure, *, num_resamples: int = 2000, seed: int = 0
) -> Comparison:
    """`more`'s figure minus `less`'s; both have the same questions in the same order. None is 0.

    Undefined where it is in any run. Resamples in which it is undefined are left out of the interval: that of
    single runs is the middle of the resampled values, that of several Student's t.
    """
    given = [more] if less is None else [more, less]
    sides = [{name: columns[name] for name in figure.needs} for columns in given]
    missing = [np.isnan(values).any(0) for columns in sides for values in columns.values()]
    has_all = ~np.any(missing, axis=0)
    sides = [{name: values[:, has_all] for name, values in columns.items()} for columns in sides]
    num_questions = int(has_all.sum())
    if not num_questions:
        return Comparison(None, 0, _nowhere)

    runs_of = [figure.value(columns) for columns in sides]

    def minus(values: Sequence[np.ndarray]) -> float:
        means = [float(value.mean()) for value in values]
        return means[0] - sum(means[1:])

    point = minus(runs_of)
    if np.isnan(point):
        return Comparison(None, num_questions, _nowhere)
    random_ = np.random.default_rng(seed)
    resampled = np.empty(num_resamples)
    for index in range(num_resamples):
        drawn = random_.integers(num_questions, size=num_questions)
        of_sides = [{name: values[:, drawn] for name, values in side.items()} for side in sides]
        resampled[index] = minus([figure.value(columns) for columns in of_sides])
    if max(map(len, runs_of)) == 1:
        return Comparison(point, num_questions, partial(interval, resampled))
    # What another seed does to single questions is in both kinds of parts: a little too much.
    parts = [(float(np.nanvar(resampled, ddof=1)), max(1, num_questions - 1))]
    parts += [(float(runs.var(ddof=1)) / len(runs), len(runs) - 1) for runs in runs_of if len(runs) > 1]
    return Comparison(point, num_questions, _students_t(point, parts))


def _nowhere(level: float) -> tuple[float, float]:
    raise ValueError(f"no interval at {level} of what is undefined")


def _students_t(point: float, parts: Sequence[tuple[float, int]]) -> Callable[[float], tuple[float, float]]:
    """Around `point`, whose variance is the sum of parts with degrees of freedom of their own (Welch and
    Satterthwaite)."""
    variance = sum(part for part, _ in parts)
    weighed = sum(part**2 / freedom for part, freedom in parts)
    freedom = variance**2 / weighed if weighed else 1.0

    def bounds(level: float) -> tuple[float, float]:
        half = float(student_t.ppf((1 + level) / 2, freedom)) * variance**0.5
        return point - half, point + half

    return bounds


def _mean_where(chosen: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Over the last axis; NaN, without a warning, where nothing is chosen."""
    with np.errstate(invalid="ignore"):
        return np.where(chosen, values, 0).sum(-1) / chosen.sum(-1)
