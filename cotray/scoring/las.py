"""Leakage-adjusted simulatability (Hase et al. 2020): does the rationale help an observer
predict the student, beyond what the rationale alone gives away? Formulas: docs/explanation/method.md#las"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from cotray.records import same_answer
from cotray.scoring.statistics import interval, resamples

SMALL_GROUP = 30


@dataclass(frozen=True)
class LasReport:
    """All values are fractions; an interval is (2.5 %, 97.5 %) over bootstrap resamples of the rows.

    las = (las_leaking + las_nonleaking) / 2, each the accuracy from x and e minus the accuracy from x
    alone. A group without rows makes its value, and las, None; `reason` says why. `sim_gain` is the
    same difference over all rows, without the adjustment: never compare one with the other.
    """

    las: float | None
    las_leaking: float | None
    las_nonleaking: float | None
    sim_gain: float | None
    leak_rate: float | None
    num_leaking: int
    num_nonleaking: int
    ci95: tuple[float, float] | None
    sim_gain_ci95: tuple[float, float] | None
    accuracy_x: float | None
    accuracy_e: float | None
    accuracy_xe: float | None
    undefined_resamples: float
    """Share of resamples in which a group was empty; the interval leaves them out."""
    reason: str = ""
    """Why a value is None, or a caution about small groups; "" if neither."""


def las(
    student: Sequence[Hashable],
    sim_x: Sequence[Hashable],
    sim_e: Sequence[Hashable],
    sim_xe: Sequence[Hashable],
    *,
    ids: Sequence[Hashable] | None = None,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> LasReport:
    """LAS of rows given as the student's answer and the simulator's from x, from e and from both; texts are
    compared in their normalized form.

    `ids`: of the question of each row, where several rows may be of one; a resample draws questions.
    Raises ValueError if the four sequences differ in length.
    """
    if not len(student) == len(sim_x) == len(sim_e) == len(sim_xe):
        raise ValueError("student, sim_x, sim_e and sim_xe must have the same length")
    x, e, xe = (
        np.array([same_answer(s, y) for s, y in zip(sim, student, strict=True)], dtype=int)
        for sim in (sim_x, sim_e, sim_xe)
    )
    if not len(x):
        return LasReport(*[None] * 5, 0, 0, *[None] * 5, 0.0, "no rows")  # pyright: ignore
    # A row matters only through its three correctness bits, so rows are counted in eight cells; then
    # resampling rows is drawing the cells' counts from a multinomial, at a cost independent of n.
    cells = 4 * e + 2 * x + xe
    counts_8 = np.bincount(cells, minlength=8)
    point = _statistics(counts_8[None])
    if ids is None or len(set(ids)) == len(ids):
        draws = np.random.default_rng(seed).multinomial(len(x), counts_8 / len(x), size=num_resamples)
    else:
        drawn = resamples(ids, num_resamples, seed)
        draws = np.array([np.bincount(cells[rows], minlength=8) for rows in drawn])
    resampled = _statistics(draws)
    num_leaking, num_nonleaking = int(counts_8[4:].sum()), int(counts_8[:4].sum())
    return LasReport(
        las=_value(point["las"]),
        las_leaking=_value(point["leaking"]),
        las_nonleaking=_value(point["nonleaking"]),
        sim_gain=_value(point["gain"]),
        leak_rate=num_leaking / len(x),
        num_leaking=num_leaking,
        num_nonleaking=num_nonleaking,
        ci95=interval(resampled["las"]) if num_leaking and num_nonleaking else None,
        sim_gain_ci95=interval(resampled["gain"]),
        accuracy_x=float(x.mean()),
        accuracy_e=float(e.mean()),
        accuracy_xe=float(xe.mean()),
        undefined_resamples=float(np.isnan(resampled["las"]).mean()),
        reason=_reason(num_leaking, num_nonleaking),
    )


def binned_las(
    student: Sequence[Hashable],
    sim_x: Sequence[Hashable],
    sim_xe: Sequence[Hashable],
    leak_probability: Sequence[float],
    *,
    num_bins: int,
) -> float:
    """LAS over equal-width bins of a leak probability in [0, 1]: the unweighted mean over non-empty bins
    of (accuracy from x and e) - (accuracy from x); two bins are plain LAS.
    docs/explanation/method.md#binned-las"""
    gains = defaultdict(list)
    for y, x, xe, leak in zip(student, sim_x, sim_xe, leak_probability, strict=True):
        gains[min(int(leak * num_bins), num_bins - 1)].append(same_answer(xe, y) - same_answer(x, y))
    return float(np.mean([np.mean(gain) for gain in gains.values()]))


def _statistics(counts_N8: np.ndarray) -> dict[str, np.ndarray]:
    """LAS and its parts for N tables of cell counts; cell = 4 * leaks + 2 * x right + xe right."""
    gain_8 = np.array([(cell & 1) - (cell >> 1 & 1) for cell in range(8)])
    gains, sizes = counts_N8 * gain_8, counts_N8
    with np.errstate(invalid="ignore"):
        nonleaking = gains[:, :4].sum(1) / sizes[:, :4].sum(1)
        leaking = gains[:, 4:].sum(1) / sizes[:, 4:].sum(1)
    gain = gains.sum(1) / sizes.sum(1)
    return {"las": (leaking + nonleaking) / 2, "leaking": leaking, "nonleaking": nonleaking, "gain": gain}


def _value(array: np.ndarray) -> float | None:
    return None if np.isnan(array[0]) else float(array[0])


def _reason(num_leaking: int, num_nonleaking: int) -> str:
    if not num_leaking:
        return "no rationale leaks the answer, so LAS of the leaking group is undefined"
    if not num_nonleaking:
        return "every rationale leaks the answer, so LAS of the non-leaking group is undefined"
    small = min(num_leaking, num_nonleaking)
    return f"a group has only {small} rows (under {SMALL_GROUP})" if small < SMALL_GROUP else ""
