"""The comparison of methods as plain text, for the terminal and job logs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cotray.report.method_report import MethodDifference, MethodReport


MIN_QUESTIONS = 30
"""Below so many test questions nothing is shown as measured: of 4 that agree, the interval has no width."""


def text_table(methods: Sequence[MethodReport], pairs: Sequence[MethodDifference] = ()) -> str:
    """A row per method, then one per pair of methods."""
    has_truth = any(m.ground_truth for m in methods)
    header = ["method", "LAS", "95 % interval", "sim. gain", "leak", "accuracy", "oracle", "perturbed"]
    header += [*(["truth"] if has_truth else []), "n"]
    rows = [_row(m, has_truth) for m in methods]
    notes = [
        f"{m.method}: {m.las['reason']}"
        for m in methods
        if m.las["reason"] and m.num_questions >= MIN_QUESTIONS
    ]
    lines = [*aligned(header, rows), *notes]
    if pairs:
        header = [f"minus {pairs[0].against}", "LAS", "95 % interval", "accuracy", "95 % interval", "n"]
        lines += ["", *aligned(header, [_difference_row(pair) for pair in pairs])]
    return "\n".join(lines)


def _row(m: MethodReport, has_truth: bool) -> list[str]:
    """Where there are too few questions for any figure, one cell says so for all."""
    truth = [measured(m.faithfulness, m.num_probed)] if has_truth else []
    if m.num_questions < MIN_QUESTIONS:
        return [m.method, unmeasured(m.num_questions), *[""] * (6 + len(truth)), str(m.num_questions)]
    return [
        m.method,
        number(m.las["las"]),
        interval(m.las["ci95"]),
        number(m.las["sim_gain"]),
        number(m.las["leak_rate"]),
        *(measured(part["value"], part["n"]) for part in (m.accuracy, m.oracle_accuracy)),
        measured(m.perturbed_accuracy["value"], m.perturbed_accuracy["n"]),
        *truth,
        str(m.num_questions),
    ]


def _difference_row(pair: MethodDifference) -> list[str]:
    num_questions = pair.las.num_questions
    if num_questions < MIN_QUESTIONS:
        return [pair.method, unmeasured(num_questions), "", "", "", str(num_questions)]
    figures = [
        cell for part in (pair.las, pair.accuracy) for cell in (signed(part.value), interval(part.ci95))
    ]
    return [pair.method, *figures, str(num_questions)]


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in [header, *rows]]
    return [lines[0].rstrip(), "-" * len(lines[0]), *(line.rstrip() for line in lines[1:])]


def unmeasured(num_questions: int) -> str:
    return f"not measured (n = {num_questions})"


def measured(value: float | None, num_questions: int) -> str:
    """A fraction, where enough questions stand behind it."""
    return unmeasured(num_questions) if num_questions < MIN_QUESTIONS else number(value)


def signed(value: float | None) -> str:
    """A difference."""
    return "-" if value is None else f"{value:+.3f}"


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


PROBED = {
    "early_answering": "early answering: area over the curve of answers that are kept",
    "filler": "filler: another answer after dots",
    "mistake": "mistake: another answer after a wrong sentence",
    "following": "following: the answer follows every rationale given",
    "turned": "cues: the answer turns to what is suggested",
    "mentioned": "... and the rationale says so",
}
"""What `probe` finds, by the names of probing.figures.COLUMNS."""


def probing_lines(metrics: dict[str, Any]) -> str:
    """What `probe` found, a figure per line."""
    width = max(map(len, PROBED.values()))
    return "\n".join(
        f"{text:<{width}}  {measured(part['value'], part['n'])} "
        f"{interval(part['ci95']) if part['n'] >= MIN_QUESTIONS else ''} (n = {part['n']})"
        for name, text in PROBED.items()
        if (part := metrics.get(name))
    )


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
