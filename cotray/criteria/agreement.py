"""Do raters agree: Krippendorff's alpha and the plain share of equal verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from nltk.metrics.agreement import AnnotationTask

Verdicts = Mapping[str, Mapping[str, bool | None]]
"""Rater -> item -> yes or no; None or a missing item: not rated."""


@dataclass(frozen=True)
class Agreement:
    """`raw`: of all pairs of verdicts on one item, how many are equal. alpha: 1 is perfect, 0 is chance.

    None where undefined: no item with two verdicts, or, for alpha, verdicts that are all equal.
    """

    alpha: float | None
    raw: float | None
    num_pairs: int


def agreement(verdicts: Verdicts) -> Agreement:
    """Between all raters, over the items that at least two of them rated."""
    rated = {r: {item: v for item, v in of.items() if v is not None} for r, of in verdicts.items()}
    equal = [
        rated[one][item] == rated[other][item]
        for one, other in combinations(rated, 2)
        for item in rated[one].keys() & rated[other].keys()
    ]
    if not equal:
        return Agreement(None, None, 0)
    counts: dict[str, int] = {}
    for of in rated.values():
        for item in of:
            counts[item] = counts.get(item, 0) + 1
    triples = [(rater, item, v) for rater, of in rated.items() for item, v in of.items() if counts[item] > 1]
    # The library calls it perfect where nothing varies; Krippendorff leaves it undefined (0 / 0).
    varies = len({verdict for *_, verdict in triples}) > 1
    alpha = float(AnnotationTask(triples).alpha()) if varies else None
    return Agreement(alpha, float(np.mean(equal)), len(equal))


def agreement_with(verdicts: Verdicts, judge: Mapping[str, bool | None]) -> Agreement:
    """Of a judge with each person: raw over all such pairs, alpha the mean over the persons where defined."""
    each = [agreement({"judge": judge, "person": of}) for of in verdicts.values()]
    alphas = [one.alpha for one in each if one.alpha is not None]
    num_pairs = sum(one.num_pairs for one in each)
    raw = sum(one.raw * one.num_pairs for one in each if one.raw is not None)
    return Agreement(
        float(np.mean(alphas)) if alphas else None, raw / num_pairs if num_pairs else None, num_pairs
    )
