"""Claims about a sweep's figures, each with the difference it is about and a verdict."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from cotray.config.sweep import Cell, Claim
from cotray.quality.summary import rationale_columns
from cotray.records import Assessment
from cotray.report.comparison import (
    RATIONALE_FIGURES,
    STUDENT_FIGURES,
    Comparison,
    Difference,
    columns_of,
    compare,
)
from cotray.report.run_columns import run_columns
from cotray.storage.run_folder import RunFolder

HOLDS, FAILS, OPEN = "holds here", "does not hold here", "cannot be told"
AMONG = "cannot be told among so many claims"
UNFINISHED, ONE_SEED = "not all runs are finished", "cannot be told from one seed"


@dataclass(frozen=True)
class Finding:
    """A claim with what was seen; `num_runs` are the runs of each side."""

    claim: Claim
    difference: Difference
    num_runs: tuple[int, ...]
    verdict: str


def findings(claims: Sequence[Claim], cells: Sequence[Cell], done: Collection[str]) -> list[Finding]:
    """Every claim in order. `done`: run folders whose figures are of these configurations.

    Of a claim that is decided by its own 95 % interval alone, the verdict says so where it is one of many:
    among those that are left decided, 5 % are expected to be decided wrongly.
    """
    by_value = {str(cell.value): cell for cell in cells}
    found, p_values = list[Finding](), list[float]()
    for claim in claims:
        compared = [by_value[value] for value in (claim.more, claim.less) if value]
        finding, p_value = _finding(claim, compared, done)
        found.append(finding)
        p_values.append(p_value)
    limit = rate_limit(p_values)
    return [
        replace(one, verdict=AMONG) if one.verdict in (HOLDS, FAILS) and p_value > limit else one
        for one, p_value in zip(found, p_values, strict=True)
    ]


def rate_limit(p_values: Sequence[float], rate: float = 0.05) -> float:
    """The largest p at which no more than this share of what is rejected is expected to be rejected wrongly
    (Benjamini and Hochberg 1995)."""
    ranked = enumerate(sorted(p_values), 1)
    return max((p for rank, p in ranked if p <= rate * rank / len(p_values)), default=0.0)


def _finding(claim: Claim, compared: Sequence[Cell], done: Collection[str]) -> tuple[Finding, float]:
    """With the p-value of its verdict, which is 1 where there is none."""
    _, _, score = claim.figure.rpartition(".")
    is_rationale = claim.figure.startswith("rationale.")
    read, figures = (_rationales, RATIONALE_FIGURES) if is_rationale else (_answers, STUDENT_FIGURES)
    sides = [read([config.run_dir for config in cell.configs if config.run_dir in done]) for cell in compared]
    num_runs = tuple(map(len, sides))
    ids = sorted(set.intersection(*(set(run) for side in sides for run in side))) if all(sides) else []
    if not ids:
        return Finding(claim, Difference(None, None, 0), num_runs, UNFINISHED), 1.0
    columns = [columns_of(side, ids) for side in sides]
    comparison = compare(columns[0], columns[1] if len(columns) > 1 else None, figures[score])
    found = comparison.at(0.95)
    # The teacher writes once for all seeds; of students, nobody knows what another seed would change.
    if not is_rationale and num_runs != tuple(len(cell.configs) for cell in compared):
        return Finding(claim, found, num_runs, UNFINISHED), 1.0
    if not is_rationale and min(num_runs) == 1:
        return Finding(claim, found, num_runs, ONE_SEED), 1.0
    said = verdict(found, claim.within)
    return Finding(claim, found, num_runs, said), 1.0 if said == OPEN else _p_value(comparison, claim.within)


def _p_value(comparison: Comparison, within: float) -> float:
    """One minus the highest level whose interval still gives the verdict of the 95 % one, to one part in a
    thousand."""
    said, low, high = verdict(comparison.at(0.95), within), 1e-6, 0.05
    while high / low > 1.001:
        middle = (low * high) ** 0.5
        is_said = verdict(comparison.at(1 - middle), within) == said
        low, high = (low, middle) if is_said else (middle, high)
    return high


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
    return [run_columns(RunFolder(run_dir)) for run_dir in run_dirs]


def _rationales(run_dirs: Sequence[str]) -> list[dict[str, dict[str, float]]]:
    """The same of the teacher's, which are those of any run: one, or none if nothing was assessed."""
    for folder in map(RunFolder, run_dirs):
        if folder.manifest("assessments"):
            rows = folder.read_records("assessments", Assessment)
            good = [row for row in rows if row.kind == "factual" and row.sample == 0 and not row.error]
            return [{row.id: rationale_columns(row) for row in good}]
    return []
