"""Yes-rates per writer, method and measure, with bootstrap intervals over the rationales."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cotray.criteria.agreement import Verdicts
from cotray.criteria.rated_items import Item
from cotray.prompts.criteria import Rating
from cotray.scoring.statistics import interval

MEASURES: dict[str, Callable[[Rating], bool | None]] = {
    "grammaticality": lambda rating: rating.grammaticality,
    "new_info": lambda rating: rating.new_info,
    # Of all rationales: what says nothing new supports nothing.
    "supports_answer": lambda rating: bool(rating.supports_answer),
    "supports_given_new": lambda rating: rating.supports_answer,
}
Ratings = Mapping[str, Mapping[str, Rating]]
"""Rater -> item -> rating."""


@dataclass(frozen=True)
class YesRate:
    """Share of verdicts that are yes; None without verdicts. The interval leaves out what other raters would
    say."""

    writer: str
    method: str
    measure: str
    rate: float | None
    ci95: tuple[float, float] | None
    num_items: int
    num_verdicts: int


def verdicts_of(ratings: Ratings, measure: str) -> Verdicts:
    of = MEASURES[measure]
    return {rater: {item: of(rating) for item, rating in rated.items()} for rater, rated in ratings.items()}


def yes_rates(items: Sequence[Item], ratings: Ratings, *, num_resamples: int, seed: int) -> list[YesRate]:
    """One for every group of rationales and every measure, in the order of the groups' names."""
    groups = sorted({(source.writer, source.method) for item in items for source in item.sources})
    members = {
        (writer, method): [
            item.id for item in items if any((s.writer, s.method) == (writer, method) for s in item.sources)
        ]
        for writer, method in groups
    }
    return [
        _yes_rate(group, measure, members[group], verdicts_of(ratings, measure), num_resamples, seed)
        for group in groups
        for measure in MEASURES
    ]


def _yes_rate(
    group: tuple[str, str], measure: str, ids: list[str], verdicts: Verdicts, num_resamples: int, seed: int
) -> YesRate:
    """Items are resampled with all their verdicts, because raters of one item are not independent."""
    per_item = [[of[id_] for of in verdicts.values() if of.get(id_) is not None] for id_ in ids]
    per_item = [rated for rated in per_item if rated]
    if not per_item:
        return YesRate(*group, measure, None, None, 0, 0)
    yes_N = np.array([sum(map(bool, rated)) for rated in per_item])
    all_N = np.array([len(rated) for rated in per_item])
    times_RN = np.random.default_rng(seed).multinomial(
        len(per_item), [1 / len(per_item)] * len(per_item), size=num_resamples
    )
    bounds = interval((times_RN @ yes_N) / (times_RN @ all_N))
    total = int(all_N.sum())
    return YesRate(*group, measure, float(yes_N.sum() / total), bounds, len(per_item), total)
