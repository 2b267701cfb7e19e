"""The report's plots as SVG text."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#2f6db5", "#d9822b", "#8a8f98"
COLORS = matplotlib.colormaps["tab10"].colors  # type: ignore[attr-defined]
BESIDE: dict[str, Any] = {"frameon": False, "bbox_to_anchor": (1.01, 1), "loc": "upper left"}
"""Where a legend covers nothing."""
BOXES = {
    "nats per token": ("grounded", "shuffled", "novel", "delta"),
    "share": ("copy_rate", "repetition", "qags"),
    "number": ("num_words", "num_pairs"),
}
"""Scores that are drawn as boxes, by their unit."""


def bars_svg(methods: Sequence[Any]) -> str:
    """LAS and accuracy by method with 95 % intervals; an undefined LAS has no bar."""
    figure, axes = _figure(width=2.2 + 1.5 * len(methods), height=3.4)
    for offset, color, name in ((-0.2, BLUE, "LAS"), (0.2, ORANGE, "accuracy")):
        for position, method in enumerate(methods):
            value, bounds = (
                (method.las["las"], method.las["ci95"])
                if name == "LAS"
                else (method.accuracy["value"], method.accuracy["ci95"])
            )
            if value is None:
                axes.text(position + offset, 0.01, "n/a", ha="center", va="bottom", color=GREY, fontsize=8)
                continue
            axes.bar(position + offset, value, 0.36, color=color, label=name if position == 0 else None)
            if bounds:
                errors = [[max(0.0, value - bounds[0])], [max(0.0, bounds[1] - value)]]
                axes.errorbar(position + offset, value, yerr=errors, color="#333", capsize=3, linewidth=1)
    axes.axhline(0, color="#333", linewidth=0.8)
    axes.set_xticks(range(len(methods)), [_label(m.method) for m in methods], fontsize=9)
    axes.set_ylabel("fraction")
    axes.legend(frameon=False, fontsize=9)
    return _svg(figure)


def loss_svg(histories: Sequence[tuple[str, Sequence[dict[str, float]]]]) -> str:
    """Factual training loss (dashed) and dev loss (solid) by epoch, one colour per method."""
    figure, axes = _figure(width=7, height=3.2)
    for index, (method, history) in enumerate(histories):
        epochs = [row["epoch"] for row in history]
        style = {"color": COLORS[index % len(COLORS)], "marker": "o", "markersize": 3}
        if all("dev_loss" in row for row in history):
            axes.plot(epochs, [row["dev_loss"] for row in history], label=f"{method}: dev", **style)
        loss = [row["loss_factual"] for row in history]
        axes.plot(epochs, loss, linestyle="--", label=f"{method}: train", **style)
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss per token (nats)")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(fontsize=7, **BESIDE)
    return _svg(figure)


def sweep_svg(rows: Sequence[Any]) -> str:
    """LAS and accuracy of each varied key's values, means with intervals; a panel per key."""
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
        axes.axhline(0, color="#333", linewidth=0.8)
        axes.set_xticks(range(len(of_key)), [_label(row.value) for row in of_key], fontsize=8)
        axes.set_xlim(-0.5, len(of_key) - 0.5)
        axes.set_title(key, fontsize=9, loc="left")
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
    widths = [len(names) for names in panels.values()]
    figure = Figure(figsize=(2.6 + 1.1 * sum(widths), 3.4), layout="constrained")
    all_axes = figure.subplots(1, len(panels), squeeze=False, width_ratios=widths)[0]
    for axes, (unit, names) in zip(all_axes, panels.items(), strict=True):
        for index, method in enumerate(judged):
            _boxes(axes, names, method.quality, index, len(judged))
        axes.spines[["top", "right"]].set_visible(False)
        axes.axhline(0, color=GREY, linewidth=0.8)
        axes.set_xticks(range(len(names)), [name.replace("_", " ") for name in names], fontsize=8)
        axes.set_xlim(-0.5, len(names) - 0.5)
        axes.set_ylabel(unit)
    for index, method in enumerate(judged):
        all_axes[-1].plot([], [], color=COLORS[index % len(COLORS)], linewidth=6, label=method.method)
    all_axes[-1].legend(fontsize=8, **BESIDE)
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


def _figure(*, width: float, height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _label(value: Any) -> str:
    """Under an axis, where long names of methods would run into each other."""
    return str(value).replace("+", "\n+ ")


def _svg(figure: Figure) -> str:
    """The <svg> element alone, with text as text and the same bytes for the same data."""
    buffer = io.StringIO()
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": "cotray", "font.family": "sans-serif"}
    with matplotlib.rc_context(settings):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
