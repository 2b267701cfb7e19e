"""A sweep's figures over seeds: one table and one plot, as text, sweep.json and sweep.html."""

from __future__ import annotations

import json
import statistics
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from markupsafe import Markup
from scipy.stats import t as student_t

from cotray.config.sweep import Cell, SweepConfig
from cotray.report.calibration import Calibration, calibration
from cotray.report.html import environment
from cotray.report.plots import boxes_svg, students_svg, sweep_svg
from cotray.report.table import aligned, interval, number
from cotray.storage.run_folder import RunFolder

FIGURES = {
    "las": "LAS",
    "sim_gain": "sim. gain",
    "leak_rate": "leak",
    "accuracy": "accuracy",
    "oracle_gain": "oracle gain",
    "perturbation_drop": "perturb. drop",
    "following": "truth",
}


@dataclass(frozen=True)
class Mean:
    """Over seeds; `ci95` is Student's t interval of the mean, None below two values.

    A figure that is undefined in any run has no mean: it would not be chance which runs it leaves out.
    """

    mean: float | None
    ci95: tuple[float, float] | None
    values: tuple[float | None, ...]


@dataclass(frozen=True)
class Row:
    """One value of one key. A run that is not finished has no values."""

    label: str
    key: str
    value: Any
    num_runs: int
    figures: dict[str, Mean]


@dataclass(frozen=True)
class Rated:
    """The teacher's rationales of one decoding setting; `method` is the first value that was made with it."""

    method: str
    quality: dict[str, Any] | None
    selection: dict[str, Any] | None


def write_sweep(
    config: SweepConfig, cells: Sequence[Cell], findings: Sequence[Any], done: Collection[str]
) -> str:
    """Write both files into the sweep's folder; returns the tables as text.

    `findings` are those of cotray.report.claims, one per claim; `done` are the folders of the runs to show,
    those whose figures are of these configurations.
    """
    shown = [replace(cell, configs=tuple(c for c in cell.configs if c.run_dir in done)) for cell in cells]
    rows = [_row(cell) for cell in shown]
    rated = _rated(shown)
    root = RunFolder(config.run_dir)
    summary = {
        "seeds": list(config.seeds),
        "base": config.base,
        "rows": [asdict(row) for row in rows],
        "rationales": [asdict(one) for one in rated],
        "claims": [asdict(one) | {"claim": one.claim.model_dump()} for one in findings],
    }
    calibrated = calibration(sorted(done)) if config.calibrates else None
    if calibrated:
        summary["calibration"] = asdict(calibrated)
    root.write_bytes("sweep.json", json.dumps(summary, indent=1).encode())
    template = environment().get_template("sweep.html.j2")
    page = template.render(
        title=f"cotray {root.root.rpartition('/')[2]}",
        rows=rows,
        seeds=config.seeds,
        figures=figures_of(rows),
        rated=rated,
        findings=findings,
        calibrated=calibrated,
        students=Markup(students_svg(calibrated)) if calibrated and calibrated.figures else "",
        criteria=json.loads(root.read_bytes("criteria.json")) if root.exists("criteria.json") else {},
        plot=Markup(sweep_svg(rows)),
        scores=Markup(boxes_svg(rated)),
    )
    root.write_bytes("sweep.html", page.encode())
    texts = [
        text_table(rows, len(config.seeds)),
        *map(_claim_line, findings),
        *(_calibration_lines(calibrated) if calibrated and calibrated.figures else []),
        f"report: {root.uri('sweep.html')}",
    ]
    return "\n".join([texts[0], "", *texts[1:]])


def mean_over_seeds(values: Sequence[float | None]) -> Mean:
    defined = [value for value in values if value is not None]
    if not defined or len(defined) < len(values):
        return Mean(None, None, tuple(values))
    mean = statistics.fmean(defined)
    if len(defined) < 2:
        return Mean(mean, None, tuple(values))
    half = float(student_t.ppf(0.975, len(defined) - 1)) * statistics.stdev(defined) / len(defined) ** 0.5
    return Mean(mean, (mean - half, mean + half), tuple(values))


def figures_of(rows: Sequence[Row]) -> dict[str, str]:
    """The columns of the table; that of the truth only where it is known."""
    is_known = any(row.figures["following"].mean is not None for row in rows)
    return {name: title for name, title in FIGURES.items() if name != "following" or is_known}


def text_table(rows: Sequence[Row], num_seeds: int) -> str:
    columns = figures_of(rows)
    header = ["", "runs", *columns.values()]
    lines = [
        [
            row.label,
            f"{row.num_runs}/{num_seeds}",
            *(
                f"{number(m.mean)} {interval(m.ci95)}{_undefined(m)}"
                for m in (row.figures[name] for name in columns)
            ),
        ]
        for row in rows
    ]
    widths = [max(len(line[i]) for line in (header, *lines)) for i in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in (header, *lines)
    )


def _calibration_lines(calibrated: Calibration) -> list[str]:
    """A table: which figure ranks students as the truth does."""
    header = ["figure", "rank correlation with the truth", "pairs in order", "of like accuracy", "runs"]
    rows = [
        [
            one.figure,
            f"{number(one.spearman)} {interval(one.spearman_ci95)}",
            f"{number(one.ordered)} {interval(one.ordered_ci95)}",
            f"{number(one.ordered_alike)} {interval(one.ordered_alike_ci95)}",
            str(one.num_runs),
        ]
        for one in calibrated.figures
    ]
    stable = "two halves of the students order the figures alike, by a rank correlation of "
    stable += number(calibrated.stability)
    return ["", *aligned(header, rows), stable]


def _undefined(figure: Mean) -> str:
    num_undefined = sum(value is None for value in figure.values)
    return f" (undefined in {num_undefined} of {len(figure.values)})" if num_undefined else ""


def _claim_line(one: Any) -> str:
    seen = f"{number(one.difference.value)} {interval(one.difference.ci95)}"
    return f"{one.verdict}: {one.claim.text} ({one.claim.figure}, {seen})"


def _rated(cells: Sequence[Cell]) -> list[Rated]:
    """Cells with the same scores, because they share the teacher's rationales, are one."""
    rated: dict[str, Rated] = {}
    for cell in cells:
        folder = RunFolder(cell.configs[0].run_dir) if cell.configs else None
        assessments = folder.manifest("assessments") if folder else None
        if folder is None or assessments is None:
            continue
        student = folder.manifest("student")
        quality = {key: value for key, value in assessments.metrics.items() if key != "last_run"}
        selection = student.metrics.get("selection") if student else None
        one = Rated(cell.label, quality, selection)
        rated.setdefault(json.dumps([quality, selection], sort_keys=True), one)
    return list(rated.values())


def _row(cell: Cell) -> Row:
    runs = [_figures_in(RunFolder(config.run_dir)) for config in cell.configs]
    return Row(
        cell.label,
        cell.key,
        cell.value,
        len(runs),
        {name: mean_over_seeds([run.get(name) for run in runs]) for name in FIGURES},
    )


def _figures_in(folder: RunFolder) -> dict[str, float | None]:
    answers = folder.manifest("answers")
    truth = answers.metrics.get("ground_truth", {}) if answers else {}
    return _figures(folder.require("simulations", "score").metrics) | {"following": truth.get("following")}


def _figures(metrics: dict[str, Any]) -> dict[str, float | None]:
    """Of one run; an oracle's gain is over the questions that have a teacher's rationale."""
    accuracy, oracle, perturbed = (
        metrics[name]["value"] for name in ("accuracy", "oracle_accuracy", "perturbed_accuracy")
    )
    explained = metrics.get("explained_accuracy", metrics["accuracy"])["value"]
    return {
        **{name: metrics["las"][name] for name in ("las", "sim_gain", "leak_rate")},
        "accuracy": accuracy,
        "oracle_gain": None if oracle is None or explained is None else oracle - explained,
        "perturbation_drop": None if perturbed is None or accuracy is None else accuracy - perturbed,
    }
