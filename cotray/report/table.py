"""The comparison of methods as plain text, for the terminal and job logs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cotray.report.report import MethodReport


def text_table(methods: Sequence[MethodReport]) -> str:
    header = ["method", "LAS", "95 % interval", "sim. gain", "leak", "accuracy", "oracle", "perturbed", "n"]
    rows = [
        [
            m.method,
            number(m.las["las"]),
            interval(m.las["ci95"]),
            number(m.las["sim_gain"]),
            number(m.las["leak_rate"]),
            number(m.accuracy["value"]),
            number(m.oracle_accuracy["value"]),
            number(m.perturbed_accuracy["value"]),
            str(m.accuracy["n"]),
        ]
        for m in methods
    ]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in [header, *rows]]
    notes = [f"{m.method}: {m.las['reason']}" for m in methods if m.las["reason"]]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:], *notes])


def number(value: float | None) -> str:
    """A fraction with three decimals, or a dash where it is undefined."""
    return "-" if value is None else f"{value:.3f}"


def interval(bounds: Sequence[Any] | None) -> str:
    return "-" if bounds is None else f"[{bounds[0]:.3f}, {bounds[1]:.3f}]"


def quality_lines(metrics: dict[str, Any]) -> str:
    """What `assess` found, one score per line; averages are over the factual rationales that have it."""
    lines = [
        f"{name:<14}{number(part['mean'])} {interval(part['ci95'])} (n = {part['n']})"
        for name, part in metrics.items()
        if isinstance(part, dict) and "mean" in part
    ]
    if auc := metrics.get("fact_auc"):
        lines.append(
            f"{'own facts':<14}{number(auc['value'])} {interval(auc['ci95'])} AUC against other facts"
        )
    if simulation := metrics.get("simulation"):
        gain, bounds = simulation["sim_gain"], simulation["sim_gain_ci95"]
        lines.append(f"{'sim_gain':<14}{number(gain)} {interval(bounds)}")
    return "\n".join(lines)


def conseq_lines(figures: dict[str, Any]) -> str:
    """What the second phase of `train` did: how many questions, and what became likelier and unlikelier."""
    lines = [
        f"{'ConSeq':<14}{figures['selected']:,} of {figures['questions']:,} training questions, "
        f"{figures['scored']:,} with scores on both sides"
    ]
    for side, name in (("chosen", "teacher's best"), ("rejected", "own worst")):
        means = figures["logprob"][side]
        lines.append(
            f"{name:<14} {means['before']:.4f} -> {means['after']:.4f} mean log p per rationale token"
        )
    return "\n".join(lines)
