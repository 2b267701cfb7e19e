"""Curves of measures over the faithfulness that was set: values, intervals, rank correlations, a plot."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cotray.report.comparison import STUDENT_FIGURES, Columns, Figure
from cotray.scoring.statistics import interval

NUM_RESAMPLES = 1000


def _mean_of_known(name: str) -> Figure:
    """Over the questions that have one: QUALS has judged few."""
    return Figure((name,), lambda columns: np.nanmean(columns[name], -1))


MEASURES: dict[str, Figure] = {
    **{name: STUDENT_FIGURES[name] for name in ("las", "sim_gain", "oracle_gain", "perturbation_drop")},
    "following": _mean_of_known("following"),
    "quals": _mean_of_known("quals"),
    "quals_delta": _mean_of_known("quals_delta"),
}
BESIDE: dict[str, Figure] = {
    "accuracy": STUDENT_FIGURES["accuracy"],
    **{f"accuracy_{arm}": _mean_of_known(arm) for arm in ("x", "e", "xe")},
}
"""What a reader needs beside the measures: how well the student and its simulator do."""
COLORS = {
    "las": "#3f7fc9",
    "sim_gain": "#8a8f98",
    "oracle_gain": "#d9822b",
    "perturbation_drop": "#b0413e",
    "following": "#3d9a5f",
}
"""Of the measures that are drawn; QUALS has another unit."""
TITLES = {
    "hidden": "habit hidden, rationale free",
    "cue": "habit seen in the question",
    "cue-tied": "habit seen, rationale mostly fits it",
    "hidden-tied": "habit hidden, rationale mostly fits it",
}
WIDTH = 4.2
"""In inches: 403 CSS pixels."""


def summarise(
    columns_SFQ: Columns, faithful: Sequence[float], *, num_resamples: int = NUM_RESAMPLES, seed: int
) -> dict[str, Any]:
    """Per measure its mean over seeds at every value, and its rank correlation with it; flat.

    Arrays have the shape (seeds, values of `faithful`, questions). The correlation is over all students, not
    over means of seeds. A resample draws seeds and questions; what is undefined in it is left out.
    """
    curves_SF = {name: _curves(figure, columns_SFQ) for name, figure in (MEASURES | BESIDE).items()}
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in curves_SF}
    random_ = np.random.default_rng(seed)
    num_seeds, _, num_questions = columns_SFQ["x"].shape
    for _ in range(num_resamples):
        seeds = random_.integers(num_seeds, size=num_seeds)
        questions = random_.integers(num_questions, size=num_questions)
        resample = {name: values[seeds][:, :, questions] for name, values in columns_SFQ.items()}
        for name, figure in (MEASURES | BESIDE).items():
            drawn[name].append(_curves(figure, resample))
    summary: dict[str, Any] = {"num_seeds": num_seeds}
    for name, curves in curves_SF.items():
        resampled = np.array(drawn[name])
        for place, value in enumerate(faithful):
            summary[f"{name}.{value:.1f}"] = _number(curves[:, place].mean())
            summary[f"{name}.{value:.1f}.ci95"] = _interval(resampled[:, :, place].mean(1))
        if name in MEASURES:
            summary[f"{name}.spearman"] = _number(spearman(curves, faithful))
            summary[f"{name}.spearman_ci95"] = _interval(
                np.array([spearman(curves, faithful) for curves in resampled])
            )
    return summary


def spearman(curves_SF: np.ndarray, faithful: Sequence[float]) -> float:
    """Rank correlation of a measure with what was set, over every student; NaN for a constant measure."""
    from scipy.stats import spearmanr

    if np.isnan(curves_SF).any() or np.ptp(curves_SF) == 0:
        return np.nan
    result: Any = spearmanr(curves_SF.ravel(), np.tile(faithful, len(curves_SF)))
    return float(result.statistic)


def print_curves(condition: str, summary: Mapping[str, Any], faithful: Sequence[float]) -> None:
    """A row per measure: its values from the lowest to the highest, and its correlation."""
    head = "".join(f"{value:>7.1f}" for value in faithful)
    print(f"\n{condition} ({summary['num_seeds']} seeds)\n{'':<18}{head}  Spearman with 95 % interval")
    for name in MEASURES | BESIDE:
        values = "".join(_cell(summary[f"{name}.{value:.1f}"]) for value in faithful)
        rank, bounds = summary.get(f"{name}.spearman"), summary.get(f"{name}.spearman_ci95")
        tail = f"{_cell(rank)} [{bounds[0]:.2f}, {bounds[1]:.2f}]" if bounds else ""
        print(f"{name:<18}{values}  {tail}")


def write_plot(figures: Mapping[str, Any], grids: Mapping[str, Sequence[float]], path: Path) -> None:
    """A panel per condition, with the values in `grids`; under each other, so that a phone can show it."""
    import matplotlib
    from matplotlib.figure import Figure as Plot

    height = 0.5 + 2.5 * len(grids)
    plot = Plot(figsize=(WIDTH, height), layout="constrained", facecolor="white")
    all_axes = plot.subplots(len(grids), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (condition, faithful) in zip(all_axes, grids.items(), strict=True):
        axes.spines[["top", "right"]].set_visible(False)
        axes.axhline(0, color="#8a8f98", linewidth=0.8)
        for name, color in COLORS.items():
            values = [_float(figures[f"{condition}.{name}.{value:.1f}"]) for value in faithful]
            bounds = [figures[f"{condition}.{name}.{value:.1f}.ci95"] or (np.nan,) * 2 for value in faithful]
            style = "--" if name == "sim_gain" else "-"
            axes.plot(faithful, values, style, color=color, label=name.replace("_", " "), linewidth=1.8)
            axes.fill_between(faithful, *zip(*bounds, strict=True), color=color, alpha=0.15, linewidth=0)
        axes.set_ylim(-0.15, 1.05)
        axes.set_title(TITLES.get(condition, condition), fontsize=10, loc="left")
    all_axes[-1].set_xlabel("share of questions on which the student reads")
    handles, labels = all_axes[0].get_legend_handles_labels()
    plot.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "cotray"}):
        plot.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=200)


def _curves(figure: Figure, columns_SFQ: Columns) -> np.ndarray:
    """A measure of every student, of shape (seeds, values)."""
    with warnings.catch_warnings():  # of QUALS, which no question of a resample may have
        warnings.simplefilter("ignore", RuntimeWarning)
        return figure.value({name: columns_SFQ[name] for name in figure.needs})


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _float(value: float | None) -> float:
    return np.nan if value is None else value


def _interval(values: np.ndarray) -> list[float] | None:
    return None if np.isnan(values).all() else list(interval(values))


def _cell(value: float | None) -> str:
    return f"{'-':>7}" if value is None else f"{value:>7.2f}"
