"""Is one figure above another? Paired over questions, with what another training run would change.

A resample draws questions, the same for both sides, and for each side draws among its runs. So the interval
covers both sources of chance: which questions were asked, and which seed the student was trained with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cotray.records import Assessment, Simulation, normalized
from cotray.scoring.statistics import interval

Columns = Mapping[str, np.ndarray]
"""Of one or more runs: each array ends with one value per question; NaN where a question has none."""


RATIONALE_SCORES = (
    "grounded", "novel", "delta", "qags", "num_words", "copy_rate", "repetition", "states_answer",
)  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """`value`: the one side's figure minus the other's, means over their runs; None where undefined."""

    value: float | None
    ci95: tuple[float, float] | None
    num_questions: int


def student_columns(row: Simulation) -> dict[str, float]:
    """What is right about one test question, as 0 and 1."""
    gold, said = normalized(row.answer), row.student_answer
    return {
        "right": normalized(said) == gold,
        "oracle": normalized(row.oracle_answer) == gold if row.oracle_answer else np.nan,
        "perturbed": normalized(row.perturbed_answer) == gold,
        **{arm: getattr(row, f"sim_{arm}") == said for arm in ("x", "e", "xe")},
    }


def rationale_columns(row: Assessment) -> dict[str, float]:
    """The scores of one teacher's rationale; NaN where it has none."""
    scores = {
        name: np.nan if (score := getattr(row, name)) is None else float(score) for name in RATIONALE_SCORES
    }
    target = normalized(row.target_answer)
    said = {arm: getattr(row, f"sim_{arm}") for arm in ("x", "xe")}
    right = {arm: normalized(text) == target if text else np.nan for arm, text in said.items()}
    return {**scores, **right}


def _mean(name: str) -> Callable[[Columns], np.ndarray]:
    return lambda columns: _nanmean(columns[name])


def _minus(one: str, other: str) -> Callable[[Columns], np.ndarray]:
    return lambda columns: _nanmean(columns[one]) - _nanmean(columns[other])


def _las(columns: Columns) -> np.ndarray:
    """METHOD 4.1; NaN where a group is empty."""
    gain, leaks = columns["xe"] - columns["x"], columns["e"] == 1
    groups = [_nanmean(np.where(group, gain, np.nan)) for group in (leaks, ~leaks)]
    return (groups[0] + groups[1]) / 2


STUDENT_FIGURES: dict[str, Callable[[Columns], np.ndarray]] = {
    "accuracy": _mean("right"),
    "las": _las,
    "sim_gain": _minus("xe", "x"),
    "leak_rate": _mean("e"),
    "oracle_gain": _minus("oracle", "right"),
    "perturbation_drop": _minus("right", "perturbed"),
}
RATIONALE_FIGURES: dict[str, Callable[[Columns], np.ndarray]] = {
    **{name: _mean(name) for name in RATIONALE_SCORES},
    "sim_gain": _minus("xe", "x"),
}


def columns_of(runs: Sequence[Mapping[str, Mapping[str, float]]], ids: Sequence[str]) -> Columns:
    """Runs as `question id -> columns`, stacked to arrays of shape (runs, questions)."""
    names = runs[0][ids[0]]
    return {name: np.array([[run[id_][name] for id_ in ids] for run in runs], dtype=float) for name in names}


def difference(
    more: Columns,
    less: Columns,
    figure: Callable[[Columns], np.ndarray],
    *,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Difference:
    """`more`'s figure minus `less`'s; both have the same questions in the same order."""
    num_questions = next(iter(more.values())).shape[-1]
    point = _mean_over_runs(more, figure) - _mean_over_runs(less, figure)
    random_ = np.random.default_rng(seed)
    resampled = np.empty(num_resamples)
    for index in range(num_resamples):
        questions = random_.integers(num_questions, size=num_questions)
        sides = []
        for columns in (more, less):
            num_runs = next(iter(columns.values())).shape[0]
            runs = random_.integers(num_runs, size=num_runs)
            drawn = {name: values[runs][:, questions] for name, values in columns.items()}
            sides.append(_mean_over_runs(drawn, figure))
        resampled[index] = sides[0] - sides[1]
    if np.isnan(point):
        return Difference(None, None, num_questions)
    return Difference(float(point), interval(resampled), num_questions)


def _mean_over_runs(columns: Columns, figure: Callable[[Columns], np.ndarray]) -> float:
    return float(_nanmean(figure(columns)))


def _nanmean(values: np.ndarray) -> np.ndarray:
    """Over the last axis; NaN, without a warning, where nothing is defined."""
    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(defined, values, 0).sum(-1) / defined.sum(-1)
