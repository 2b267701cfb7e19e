"""Scores of many rationales as the figures of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from cotray.records import Assessment, normalized
from cotray.scoring.las import las
from cotray.scoring.statistics import auc_ci95, mean_ci95

SCORES = (
    "num_words", "copy_rate", "repetition", "states_answer",
    "num_pairs", "grounded", "novel", "delta", "shuffled", "qags",
)  # fmt: skip
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def quality(rows: Sequence[Assessment], *, seed: int) -> dict[str, Any]:
    """Of the factual rationales: each score's mean with its interval, quantiles and number of rows.

    `fact_auc`: how often a rationale's own facts back it better than another question's do, over all pairs
    of a rationale and a rationale. `simulation`: LAS and gain with the answer the rationale is for.
    """
    factual = [row for row in rows if row.kind == "factual"]
    figures: dict[str, Any] = {"n": len(factual)}
    for name in SCORES:
        values = [float(value) for row in factual if (value := getattr(row, name)) is not None]
        if values:
            figures[name] = {
                "mean": float(np.mean(values)),
                "ci95": mean_ci95(values, seed=seed),
                "quantiles": [float(value) for value in np.quantile(values, QUANTILES)],
                "n": len(values),
            }
    both = [(r.grounded, r.shuffled) for r in factual if r.grounded is not None and r.shuffled is not None]
    if both:
        value, bounds = auc_ci95([own for own, _ in both], [other for _, other in both], seed=seed)
        figures["fact_auc"] = {"value": value, "ci95": bounds, "n": len(both)}
    simulated = [row for row in factual if row.sim_x]
    if simulated:
        said = [[normalized(getattr(r, arm)) for r in simulated] for arm in ("sim_x", "sim_e", "sim_xe")]
        figures["simulation"] = asdict(
            las([normalized(r.target_answer) for r in simulated], *said, seed=seed)
        )
    return figures
