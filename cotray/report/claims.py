"""Claims about a sweep's figures, each with the difference it is about and a verdict."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from cotray.config.sweep import Cell, Claim
from cotray.quality.summary import rationale_columns
from cotray.records import Assessment, Simulation
from cotray.report.comparison import (
    RATIONALE_FIGURES,
    STUDENT_FIGURES,
    Difference,
    columns_of,
    difference,
    student_columns,
)
from cotray.storage.run_folder import RunFolder

HOLDS, FAILS, OPEN = "holds here", "does not hold here", "cannot be told"
UNFINISHED, ONE_SEED = "not all runs are finished", "cannot be told from one seed"


@dataclass(frozen=True)
class Finding:
    """A claim with what was seen; `num_runs` are the runs of each side."""

    claim: Claim
    difference: Difference
    num_runs: tuple[int, ...]
    verdict: str


def findings(claims: Sequence[Claim], cells: Sequence[Cell], done: Collection[str]) -> list[Finding]:
    """Every claim in order. `done`: run folders whose figures are of these configurations."""
    by_value = {str(cell.value): cell for cell in cells}
    return [
        _finding(claim, [by_value[value] for value in (claim.more, claim.less) if value], done)
        for claim in claims
    ]


def _finding(claim: Claim, compared: Sequence[Cell], done: Collection[str]) -> Finding:
    _, _, score = claim.figure.rpartition(".")
    is_rationale = claim.figure.startswith("rationale.")
    read, figures = (_rationales, RATIONALE_FIGURES) if is_rationale else (_answers, STUDENT_FIGURES)
    sides = [read([config.run_dir for config in cell.configs if config.run_dir in done]) for cell in compared]
    num_runs = tuple(map(len, sides))
    ids = sorted(set.intersection(*(set(run) for side in sides for run in side))) if all(sides) else []
    if not ids:
        return Finding(claim, Difference(None, None, 0), num_runs, UNFINISHED)
    columns = [columns_of(side, ids) for side in sides]
    found = difference(columns[0], columns[1] if len(columns) > 1 else None, figures[score])
    # The teacher writes once for all seeds; of students, nobody knows what another seed would change.
    if not is_rationale and num_runs != tuple(len(cell.configs) for cell in compared):
        return Finding(claim, found, num_runs, UNFINISHED)
    if not is_rationale and min(num_runs) == 1:
        return Finding(claim, found, num_runs, ONE_SEED)
    return Finding(claim, found, num_runs, verdict(found, claim.within))


def verdict(found: Difference, within: float = 0.0) -> str:
    """By the interval alone: above zero, below zero, or neither.

    Of a claim that two differ by no more than `within`: all of it so near to zero, none of it, or neither.
    """
    if not within:
        return {1: HOLDS, 0: OPEN, -1: FAILS}[found.sign]
    if found.ci95 is None:
        return OPEN
    low, high = found.ci95
    return HOLDS if -within <= low and high <= within else FAILS if low > within or high < -within else OPEN


def _answers(run_dirs: Sequence[str]) -> list[dict[str, dict[str, float]]]:
    """Question id -> columns, for each run."""
    return [
        {row.id: student_columns(row) for row in RunFolder(run_dir).read_records("simulations", Simulation)}
        for run_dir in run_dirs
    ]


def _rationales(run_dirs: Sequence[str]) -> list[dict[str, dict[str, float]]]:
    """The same of the teacher's, which are those of any run: one, or none if nothing was assessed."""
    for folder in map(RunFolder, run_dirs):
        if folder.manifest("assessments"):
            rows = folder.read_records("assessments", Assessment)
            good = [row for row in rows if row.kind == "factual" and row.sample == 0 and not row.error]
            return [{row.id: rationale_columns(row) for row in good}]
    return []
