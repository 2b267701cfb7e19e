"""Is one figure above another? Paired over questions, with what another training run would change.

A resample draws questions, the same for both sides, and for each side draws among its runs. So the interval
covers both sources of chance: which questions were asked, and which seed the student was trained with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cotray.quality.summary import SCORES
from cotray.records import Simulation, normalized
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
        **{arm: getattr(row, f"sim_{arm}") == said for arm in ("x", "e", "xe")},
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
}
RATIONALE_FIGURES = {
    **{name: _mean(name) for name in SCORES},
    "sim_gain": _minus("xe", "x"),
    "las": Figure(("x", "e", "xe"), _las),
}


def columns_of(runs: Sequence[Mapping[str, Mapping[str, float]]], ids: Sequence[str]) -> Columns:
    """Runs as `question id -> columns`, stacked to arrays of shape (runs, questions)."""
    names = runs[0][ids[0]]
    return {name: np.array([[run[id_][name] for id_ in ids] for run in runs], dtype=float) for name in names}


def difference(
    more: Columns, less: Columns | None, figure: Figure, *, num_resamples: int = 2000, seed: int = 0
) -> Difference:
    """`more`'s figure minus `less`'s; both have the same questions in the same order. None is 0.

    Undefined where it is in any run. Resamples in which it is undefined are left out of the interval.
    """
    given = [more] if less is None else [more, less]
    sides = [{name: columns[name] for name in figure.needs} for columns in given]
    missing = [np.isnan(values).any(0) for columns in sides for values in columns.values()]
    has_all = ~np.any(missing, axis=0)
    sides = [{name: values[:, has_all] for name, values in columns.items()} for columns in sides]
    num_questions = int(has_all.sum())
    if not num_questions:
        return Difference(None, None, 0)

    def minus(columns_of_sides: Sequence[Columns]) -> float:
        values = [float(figure.value(columns).mean()) for columns in columns_of_sides]
        return values[0] - sum(values[1:])

    point = minus(sides)
    if np.isnan(point):
        return Difference(None, None, num_questions)
    random_ = np.random.default_rng(seed)
    resampled = np.empty(num_resamples)
    for index in range(num_resamples):
        questions = random_.integers(num_questions, size=num_questions)
        resampled[index] = minus([_draw(columns, questions, random_) for columns in sides])
    return Difference(point, interval(resampled), num_questions)


def _draw(columns: Columns, questions: np.ndarray, random_: np.random.Generator) -> Columns:
    """The questions drawn, of as many runs as there are, drawn too."""
    num_runs = next(iter(columns.values())).shape[0]
    runs = random_.integers(num_runs, size=num_runs)
    return {name: values[runs][:, questions] for name, values in columns.items()}


def _mean_where(chosen: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Over the last axis; NaN, without a warning, where nothing is chosen."""
    with np.errstate(invalid="ignore"):
        return np.where(chosen, values, 0).sum(-1) / chosen.sum(-1)
