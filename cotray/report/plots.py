"""The report's plots as SVG text."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from cotray.report.table import MIN_QUESTIONS, unmeasured

if TYPE_CHECKING:
    from cotray.report.calibration import Calibration
    from cotray.report.method_report import MethodReport

WIDTH = 4.2
"""Of a plot in inches: 403 CSS pixels, so that a phone shows its text at nine tenths of the size."""
BLUE, ORANGE, GREEN, GREY = "#3f7fc9", "#d9822b", "#3d9a5f", "#8a8f98"
INK = "#000000"
"""Becomes the colour of the page's text, which may be light on dark."""
DEV: dict[str, Any] = {"linestyle": "-", "marker": "o", "markersize": 4}
TRAIN: dict[str, Any] = {"linestyle": (0, (4, 3)), "marker": "x", "markersize": 5}
COLORS = matplotlib.colormaps["tab10"].colors  # type: ignore[attr-defined]
LEAST_SHOWN = 0.4
"""Of an axis of fractions."""
NUM_COLUMNS = 4
"""Of panels, one per figure."""
BESIDE: dict[str, Any] = {"frameon": False, "bbox_to_anchor": (1.01, 1), "loc": "upper left"}
"""Where a legend covers nothing."""
BOXES = {
    "nats per token": ("grounded", "shuffled", "novel", "delta"),
    "share": ("copy_rate", "repetition", "qags"),
    "number": ("num_words", "num_pairs"),
}
"""Scores that are drawn as boxes, by their unit."""


def bars_svg(methods: Sequence[MethodReport]) -> str:
    """LAS, accuracy and, where it is known, what is really so, by method with 95 % intervals.

    An undefined figure has no bar, and one of too few questions says so instead.
    """
    kinds = [("LAS", BLUE), ("accuracy", ORANGE)]
    kinds += [("truth", GREEN)] if any(m.faithfulness is not None for m in methods) else []
    figure, (axes,) = _figure(height=1.1 + (0.12 + 0.26 * len(kinds)) * len(methods))
    thick = 0.84 / len(kinds)
    for row, method in enumerate(methods):
        for index, (name, color) in enumerate(kinds):
            place = row + (index + 0.5) * thick - 0.42
            value, bounds, num_questions = _bar(method, name)
            if value is None or num_questions < MIN_QUESTIONS:
                why = unmeasured(num_questions) if num_questions < MIN_QUESTIONS else "undefined"
                text, near = f"{name}: {why}", {"textcoords": "offset points", "va": "center"}
                axes.annotate(text, (0, place), (3, 0), fontsize=9, **near)
                continue
            axes.barh(place, value, thick * 0.9, color=color)
            if bounds:
                errors = [[max(0.0, value - bounds[0])], [max(0.0, bounds[1] - value)]]
                axes.errorbar(value, place, xerr=errors, color=INK, capsize=3, linewidth=1)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(methods)), [_label(m.method) for m in methods])
    axes.set_ylim(len(methods) - 0.5, -0.5)
    if not axes.patches:
        axes.set_xlim(0, 1)
    axes.set_xlabel("fraction")
    handles = [Patch(color=color, label=name) for name, color in kinds]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(kinds), frameon=False)
    return _svg(figure)


def _bar(method: MethodReport, name: str) -> tuple[float | None, Sequence[float] | None, int]:
    """A figure, its interval, and the number of questions behind it."""
    if name == "LAS":
        value, bounds = method.las["las"], method.las["ci95"]
    elif name == "accuracy":
        value, bounds = method.accuracy["value"], method.accuracy["ci95"]
    else:
        truth = method.ground_truth or {}
        return method.faithfulness, truth.get("following_ci95"), method.num_probed
    return value, bounds, method.num_questions


def loss_svg(histories: Sequence[tuple[str, Sequence[dict[str, float]]]]) -> str:
    """Loss by epoch, a colour per method: on dev a solid line with dots, in training a dashed one with
    crosses."""
    figure, (axes,) = _figure(height=3.4 + 0.18 * len(histories))
    for index, (_, history) in enumerate(histories):
        epochs, color = [row["epoch"] for row in history], COLORS[index % len(COLORS)]
        if all("dev_loss" in row for row in history):
            axes.plot(epochs, [row["dev_loss"] for row in history], color=color, **DEV)
        axes.plot(epochs, [row["loss_factual"] for row in history], color=color, **TRAIN)
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss per token (nats)")
    axes.xaxis.get_major_locator().set_params(integer=True)
    handles = [
        Patch(color=COLORS[index % len(COLORS)], label=method) for index, (method, _) in enumerate(histories)
    ]
    lines = [Line2D([], [], color=INK, label="dev", **DEV), Line2D([], [], color=INK, label="train", **TRAIN)]
    figure.legend(handles=[*lines, *handles], loc="outside lower center", frameon=False, handlelength=3.2)
    return _svg(figure)


def early_svg(curves: Sequence[tuple[str, Sequence[tuple[float, float]]]]) -> str:
    """Of each method the share of answers that are kept, by the share of the rationale that is given."""
    figure, (axes,) = _figure(height=2.9 + 0.18 * len(curves))
    for index, (_, curve) in enumerate(curves):
        shares, kept = zip(*curve, strict=True)
        axes.plot(shares, kept, color=COLORS[index % len(COLORS)], marker="o", markersize=4)
    axes.set_xlabel("share of the rationale")
    axes.set_ylabel("answers kept")
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(0, 1.03)
    handles = [Patch(color=COLORS[index % len(COLORS)], label=name) for index, (name, _) in enumerate(curves)]
    figure.legend(handles=handles, loc="outside lower center", frameon=False)
    return _svg(figure)


def students_svg(calibrated: Calibration) -> str:
    """A panel per figure: each student's figure over its truth."""
    names = [one.figure for one in calibrated.figures]
    num_rows = -(-len(names) // NUM_COLUMNS)
    figure = Figure(figsize=(9, 2.3 * num_rows), layout="constrained")
    panels = list(figure.subplots(num_rows, NUM_COLUMNS, squeeze=False, sharex=True).flat)
    truth = [student["following"] for student in calibrated.students.values()]
    for axes, name in zip(panels, names, strict=False):
        axes.spines[["top", "right"]].set_visible(False)
        values = [student[name] for student in calibrated.students.values()]
        axes.plot(truth, values, ".", color=BLUE, alpha=0.7)
        axes.set_title(name.replace("_", " "), fontsize=9, loc="left")
        axes.tick_params(labelsize=8)
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    figure.supxlabel("share of questions whose answer really follows the rationale", fontsize=9)
    return _svg(figure)


def sweep_svg(rows: Sequence[Any]) -> str:
    """LAS and accuracy of each varied key's values, means with intervals; a panel per key, one for cells."""
    keys = list(dict.fromkeys(row.key for row in rows))
    figure = Figure(figsize=(9, 2.8 * len(keys)), layout="constrained")
    for axes, key in zip(figure.subplots(len(keys), squeeze=False)[:, 0], keys, strict=True):
        axes.spines[["top", "right"]].set_visible(False)
        of_key = [row for row in rows if row.key == key]
        for offset, color, name, label in (
            (-0.1, BLUE, "las", "LAS"),
            (0.1, ORANGE, "accuracy", "accuracy"),
        ):
            axes.plot([], [], "o", color=color, label=label)
            for place, row in enumerate(of_key):
                figures = row.figures[name]
                seeds = [value for value in figures.values if value is not None]
                axes.plot([place + offset] * len(seeds), seeds, ".", color=GREY, markersize=4, zorder=1)
                if figures.mean is not None:
                    half = figures.ci95[1] - figures.mean if figures.ci95 else 0
                    axes.errorbar(place + offset, figures.mean, yerr=half, fmt="o", color=color, capsize=3)
        axes.axhline(0, color=INK, linewidth=0.8)
        low, high = axes.get_ylim()
        missing = max(0.0, LEAST_SHOWN - (high - low))  # else a sweep of zeros looks like one of differences
        axes.set_ylim(low - missing / 2, high + missing / 2)
        axes.set_xticks(range(len(of_key)), [_label(row.value) for row in of_key], fontsize=8)
        axes.set_xlim(-0.5, len(of_key) - 0.5)
        axes.set_title(key or "cells", fontsize=9, loc="left")
        axes.legend(fontsize=8, **BESIDE)
    return _svg(figure)


def boxes_svg(methods: Sequence[Any]) -> str:
    """5, 25, 50, 75 and 95 % of the scores: a panel per unit, a colour per method; "" without any."""
    judged = [method for method in methods if method.quality]
    panels = {
        unit: present
        for unit, names in BOXES.items()
        if (present := [name for name in names if any(name in method.quality for method in judged)])
    }
    if not panels:
        return ""
    num_rows = len(panels)
    figure, all_axes = _figure(height=0.4 + 2.4 * num_rows + 0.18 * len(judged), num_rows=num_rows)
    for axes, (unit, names) in zip(all_axes, panels.items(), strict=True):
        for index, method in enumerate(judged):
            _boxes(axes, names, method.quality, index, len(judged))
        axes.axhline(0, color=GREY, linewidth=0.8)
        axes.set_xticks(range(len(names)), [name.replace("_", " ") for name in names])
        axes.set_xlim(-0.5, len(names) - 0.5)
        axes.set_ylabel(unit)
    handles = [
        Patch(color=COLORS[index % len(COLORS)], label=method.method) for index, method in enumerate(judged)
    ]
    figure.legend(handles=handles, loc="outside lower center", frameon=False)
    return _svg(figure)


def _boxes(axes: Any, names: Sequence[str], quality: dict[str, Any], index: int, num_methods: int) -> None:
    """One method's boxes, `index` of `num_methods` beside each other; scores it lacks leave gaps."""
    width = 0.8 / num_methods
    places = [place for place, name in enumerate(names) if name in quality]
    if not places:
        return
    quantiles = [quality[names[place]]["quantiles"] for place in places]
    whiskers = ("whislo", "q1", "med", "q3", "whishi")
    axes.bxp(
        [dict(zip(whiskers, values, strict=True)) for values in quantiles],
        positions=[place + (index + 0.5) * width - 0.4 for place in places],
        widths=0.8 * width,
        showfliers=False,
        patch_artist=True,
        boxprops={"facecolor": COLORS[index % len(COLORS)]},
        medianprops={"color": "#fff"},
    )


def _figure(*, height: float, num_rows: int = 1) -> tuple[Figure, Sequence[Any]]:
    """As narrow as a phone, so that the page need not shrink its text; with its rows of axes."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    all_axes = figure.subplots(num_rows, 1, squeeze=False)[:, 0]
    for axes in all_axes:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, list(all_axes)


def _label(value: Any) -> str:
    """Under an axis, where long names of methods would run into each other."""
    return "\n".join(textwrap.wrap(str(value).replace("+", " + "), 16))


def _svg(figure: Figure) -> str:
    """The <svg> element alone, with text as text, in the colours of the page that it is in; the same bytes
    for the same data."""
    buffer = io.StringIO()
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": "cotray", "font.family": "sans-serif"}
    with matplotlib.rc_context(settings):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor")
