"""gate: may a student go out? Floors under its figures, and no figure below that of another run.

A figure passes its floor where the lower end of its 95 % interval is not below it, and it passes against a
baseline where the interval of the paired difference is not wholly below 0. What is undefined does not pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cotray.config import RunConfig
from cotray.errors import DataError
from cotray.report.comparison import STUDENT_FIGURES, Columns, columns_of, difference
from cotray.report.run_columns import run_columns
from cotray.report.scored_runs import scored_runs
from cotray.report.table import interval, number
from cotray.storage.run_folder import RunFolder

FIGURES = tuple(name for name in STUDENT_FIGURES if name != "leak_rate")
"""Those of which more is better."""


@dataclass(frozen=True)
class Floor:
    """`figure` is one of FIGURES."""

    figure: str
    value: float | None
    """None: only the baseline counts."""


@dataclass(frozen=True)
class Check:
    passes: bool
    text: str


def gate(config: RunConfig, floors: Sequence[Floor], baseline: str = "") -> list[Check]:
    """Every check, in order. `baseline`: the folder of another method or run.

    Raises DataError where a run has no simulations, or the two were not asked the same test questions.
    """
    rows = _questions(_scored(config))
    against = _questions(RunFolder(baseline)) if baseline else None
    if against is not None and rows.keys() != against.keys():
        num_shared = len(rows.keys() & against.keys())
        raise DataError(
            f"{baseline}: its {len(against)} test questions are others (shared are {num_shared} of this "
            f"run's {len(rows)}), so that the two cannot be compared; give a run on the same data, split and "
            "seed"
        )
    columns = _columns(rows)
    columns_against = None if against is None else _columns(against)
    checks = []
    for floor in floors:
        if floor.value is not None:
            checks.append(_above(floor.figure, floor.value, columns, seed=config.seed))
        if columns_against is not None:
            checks.append(_not_below(floor.figure, columns, columns_against, seed=config.seed))
    return checks


def _above(figure: str, floor: float, columns: Columns, *, seed: int) -> Check:
    found = difference(columns, None, STUDENT_FIGURES[figure], seed=seed)
    if found.ci95 is None:
        return Check(False, f"{figure}: undefined for these rows, and so not at least {floor:g}")
    low, high = found.ci95
    said = "is at least" if low >= floor else "is below" if high < floor else "is not surely at least"
    return Check(low >= floor, f"{figure}: {number(found.value)} {interval(found.ci95)} {said} {floor:g}")


def _not_below(figure: str, columns: Columns, against: Columns, *, seed: int) -> Check:
    found = difference(columns, against, STUDENT_FIGURES[figure], seed=seed)
    if found.ci95 is None:
        return Check(False, f"{figure}: cannot be compared with the baseline's, since one is undefined")
    said = "is below" if found.sign < 0 else "is above" if found.sign > 0 else "is not surely below"
    seen = f"{number(found.value)} {interval(found.ci95)}"
    return Check(found.sign >= 0, f"{figure}: {said} the baseline's, by {seen}")


def _columns(rows: dict[str, dict[str, float]]) -> Columns:
    """In the order of ids, which is the same for the same questions."""
    return columns_of([rows], sorted(rows))


def _questions(folder: RunFolder) -> dict[str, dict[str, float]]:
    folder.require("simulations", "score")
    if rows := run_columns(folder):
        return rows
    raise DataError(f"{folder.root}: has no test question; raise data.test_fraction")


def _scored(config: RunConfig) -> RunFolder:
    """The run of `method`, or the only one that there is."""
    scored = scored_runs(config)
    if config.method in scored or len(scored) == 1:
        return scored.get(config.method) or next(iter(scored.values()))
    way_out = f"choose one with method=NAME: {', '.join(scored)}" if scored else "run `cotray score` first"
    raise DataError(f"{config.run_dir}: nothing is scored of {config.method}; {way_out}")
