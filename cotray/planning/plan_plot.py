"""Hours and GPU time over the number of GPUs, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from cotray.errors import ConfigError
from cotray.planning.plan import PARTS, Estimate
from cotray.report.plots import BLUE, GREY, ORANGE

RED = "#b5392f"
COLORS = dict(zip(PARTS, (ORANGE, BLUE, RED, GREY), strict=True))
SUFFIXES = (".png", ".svg", ".pdf")


def check_plot_path(path: str) -> None:
    """ConfigError before the work, not after it."""
    if Path(path).suffix not in SUFFIXES:
        raise ConfigError(f"--plot {path}: give a name that ends with {', '.join(SUFFIXES)}")
    if not Path(path).absolute().parent.is_dir():
        raise ConfigError(f"--plot {path}: no such folder")


def write_plot(path: str, estimates: Sequence[Estimate], *, deadline_hours: float | None = None) -> None:
    estimates = sorted(estimates, key=lambda one: one.gpus)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("teacher GPUs")
    _hours(left, estimates, deadline_hours)
    _spending(right, estimates)
    figure.savefig(path, dpi=150)


def _hours(axes: Any, estimates: Sequence[Estimate], deadline_hours: float | None) -> None:
    gpus = [one.gpus for one in estimates]
    p50, p90 = [one.hours_p50 for one in estimates], [one.hours_p90 for one in estimates]
    axes.fill_between(gpus, p50, p90, color=BLUE, alpha=0.25, linewidth=0)
    axes.plot(gpus, p50, color=BLUE, marker="o", markersize=4, label="hours, median")
    axes.plot(gpus, p90, color=BLUE, linestyle="--", linewidth=1, label="90 % of the runs")
    if deadline_hours is not None:
        axes.axhline(deadline_hours, color=RED, linewidth=1.2, label=f"deadline {deadline_hours:g} h")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(gpus, [f"{each:,}" for each in gpus])
    for each, hours in zip(gpus, p50, strict=True):
        axes.annotate(f"{hours:.2f}", (each, hours), xytext=(5, 5), textcoords="offset points", fontsize=8)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel("hours")
    axes.legend(frameon=False, fontsize=8)


def _spending(axes: Any, estimates: Sequence[Estimate]) -> None:
    """GPU-hours of the run by what became of them; the cost, where prices are known, above each bar."""
    places = range(len(estimates))
    bottom = [0.0] * len(estimates)
    for part, color in COLORS.items():
        heights = [one.shares[part] * one.gpu_hours for one in estimates]
        axes.bar(places, heights, 0.6, bottom=bottom, color=color, label=part)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    for place, one in zip(places, estimates, strict=True):
        if one.cost_p50 is not None:
            axes.text(place, one.gpu_hours, f"{one.cost_p50:,.0f}", ha="center", va="bottom", fontsize=8)
    has_cost = any(one.cost_p50 is not None for one in estimates)
    axes.set_title("median cost above each bar" if has_cost else "", fontsize=8, loc="left")
    axes.set_xticks(places, [f"{one.gpus:,}" for one in estimates])
    axes.set_ylabel("GPU-hours paid for")
    axes.legend(frameon=False, fontsize=8)
