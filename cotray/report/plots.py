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
QUALS = ("grounded", "shuffled", "novel", "delta")


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
    """Distribution of the QUALS scores, a colour per method: 5, 25, 50, 75 and 95 %; "" without any."""
    judged = [method for method in methods if method.quality and set(QUALS) & method.quality.keys()]
    if not judged:
        return ""
    names = [name for name in QUALS if any(name in method.quality for method in judged)]
    figure, axes = _figure(width=8.8, height=3.4)
    width = 0.8 / len(judged)
    for index, method in enumerate(judged):
        color = COLORS[index % len(COLORS)]
        axes.plot([], [], color=color, linewidth=6, label=method.method)
        places = [place for place, name in enumerate(names) if name in method.quality]
        quantiles = [method.quality[names[place]]["quantiles"] for place in places]
        stats = [
            dict(zip(("whislo", "q1", "med", "q3", "whishi"), values, strict=True)) for values in quantiles
        ]
        axes.bxp(
            stats,
            positions=[place + (index + 0.5) * width - 0.4 for place in places],
            widths=0.8 * width,
            showfliers=False,
            patch_artist=True,
            boxprops={"facecolor": color},
            medianprops={"color": "#fff"},
        )
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_ylabel("nats per token")
    axes.legend(fontsize=8, **BESIDE)
    return _svg(figure)


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
