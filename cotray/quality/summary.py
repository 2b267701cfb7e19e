"""Scores of many rationales as the figures of a run."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import asdict
from itertools import compress
from typing import Any

import numpy as np

from cotray.records import Assessment, normalized
from cotray.scoring.las import las
from cotray.scoring.statistics import auc_ci95, mean_ci95

SCORES = (
    "num_words", "copy_rate", "repetition", "states_answer",
    "num_pairs", "grounded", "novel", "delta", "shuffled", "qags",
)  # fmt: skip
ARMS = ("x", "e", "xe")
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def rationale_columns(row: Assessment) -> dict[str, float]:
    """The scores of one teacher's rationale, and whether the simulator is right from x, from e and from
    both; NaN where it has none."""
    scores = {name: np.nan if (score := getattr(row, name)) is None else float(score) for name in SCORES}
    target = normalized(row.target_answer)
    said = {arm: getattr(row, f"sim_{arm}") for arm in ARMS}
    # To an open question it may say nothing, which is wrong; where no arm says anything, it was not asked.
    right = {arm: normalized(text) == target if any(said.values()) else np.nan for arm, text in said.items()}
    return {**scores, **right}


def quality(rows: Iterable[Assessment], *, seed: int) -> dict[str, Any]:
    """Of the factual rationales: each score's mean with its interval, quantiles and number of rows.

    `fact_auc`: how often a rationale's own facts back it better than another question's do, over all pairs
    of a rationale and a rationale. `simulation`: LAS and gain with the answer the rationale is for. Intervals
    are over questions, each with all of its rationales. Of a row only the scores are kept, 8 bytes each.
    """
    ids: list[str] = []
    columns = {name: array("d") for name in (*SCORES, *ARMS)}
    for row in rows:
        if row.kind == "factual":
            ids.append(row.id)
            for name, value in rationale_columns(row).items():
                columns[name].append(value)
    figures: dict[str, Any] = {"n": len(ids)}
    for name in SCORES:
        of_rows, values = _defined(ids, columns[name])
        if of_rows:
            figures[name] = {
                "mean": float(values.mean()),
                "ci95": mean_ci95(values.tolist(), ids=of_rows, seed=seed),
                "quantiles": [float(value) for value in np.quantile(values, QUANTILES)],
                "n": len(values),
            }
    of_rows, both = _defined(ids, columns["grounded"], columns["shuffled"])
    if of_rows:
        value, bounds = auc_ci95(*both.tolist(), ids=of_rows, seed=seed)
        figures["fact_auc"] = {"value": value, "ci95": bounds, "n": len(of_rows)}
    of_rows, right = _defined(ids, *(columns[arm] for arm in ARMS))
    if of_rows:
        figures["simulation"] = asdict(las([1.0] * len(of_rows), *right.tolist(), ids=of_rows, seed=seed))
    return figures


def _defined(ids: list[str], *columns: array[float]) -> tuple[list[str], np.ndarray]:
    """The rows that have a value in every column: their ids, and the values, a row per column if several."""
    values = np.array(columns)
    has_all = np.logical_not(np.isnan(values).any(axis=0))
    values = values[:, has_all]
    return list(compress(ids, has_all)), values if len(columns) > 1 else values[0]
