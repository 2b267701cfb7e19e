"""Claims about a sweep's figures, each with the difference it is about and a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cotray.config_sweep import Cell, Claim
from cotray.data.store import RunFolder
from cotray.records import Assessment, Simulation
from cotray.scoring.compare import (
    RATIONALE_FIGURES,
    STUDENT_FIGURES,
    Difference,
    columns_of,
    difference,
    rationale_columns,
    student_columns,
)

HOLDS, FAILS, OPEN = "holds here", "does not hold here", "cannot be told"
NOT_RUN, ONE_SEED = "not run yet", "cannot be told from one seed"


@dataclass(frozen=True)
class Finding:
    """A claim with what was seen; `num_runs` are the runs of either side."""

    claim: Claim
    difference: Difference
    num_runs: tuple[int, int]
    verdict: str


def findings(claims: Sequence[Claim], cells: Sequence[Cell]) -> list[Finding]:
    """Every claim in order; its runs are those that are finished."""
    by_value = {str(cell.value): cell for cell in cells}
    return [_finding(claim, by_value[claim.more], by_value[claim.less]) for claim in claims]


def _finding(claim: Claim, more: Cell, less: Cell) -> Finding:
    _, _, score = claim.figure.rpartition(".")
    is_rationale = claim.figure.startswith("rationale.")
    read, figures = (_rationales, RATIONALE_FIGURES) if is_rationale else (_answers, STUDENT_FIGURES)
    sides = [read(more), read(less)]
    ids = sorted(set.intersection(*(set(run) for side in sides for run in side))) if all(sides) else []
    num_runs = len(sides[0]), len(sides[1])
    if not ids:
        return Finding(claim, Difference(None, None, 0), num_runs, NOT_RUN)
    found = difference(columns_of(sides[0], ids), columns_of(sides[1], ids), figures[score])
    # Nobody knows what another seed would change before there is one.
    is_alone = [
        len(runs) == 1 and cell.configs[0].method != "few-shot"
        for cell, runs in zip((more, less), sides, strict=True)
    ]
    return Finding(claim, found, num_runs, ONE_SEED if any(is_alone) and not is_rationale else verdict(found))


def verdict(found: Difference) -> str:
    """By the interval alone: above zero, below zero, or neither."""
    if found.ci95 is None or found.ci95[0] <= 0 <= found.ci95[1]:
        return OPEN
    return HOLDS if found.ci95[0] > 0 else FAILS


def _answers(cell: Cell) -> list[dict[str, dict[str, float]]]:
    """Question id -> columns, for each finished run."""
    folders = [RunFolder(config.run_dir) for config in cell.configs]
    return [
        {row.id: student_columns(row) for row in folder.read_records("simulations", Simulation)}
        for folder in folders
        if folder.manifest("simulations")
    ]


def _rationales(cell: Cell) -> list[dict[str, dict[str, float]]]:
    """The teacher writes once for all seeds: one run, or none if nothing was assessed."""
    folder = RunFolder(cell.configs[0].run_dir)
    if not folder.manifest("assessments"):
        return []
    rows = folder.read_records("assessments", Assessment)
    good = [row for row in rows if row.kind == "factual" and row.sample == 0 and not row.error]
    return [{row.id: rationale_columns(row) for row in good}]
