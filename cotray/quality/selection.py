"""Which rationales a student learns from, and how much each counts: `assessing.rules` on their scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cotray.config.assessing import Rule
from cotray.records import Assessment

NUM_EXAMPLES = 5


@dataclass(frozen=True)
class Selection:
    """`weights`: one per row, 0 = dropped. `caught`: per rule, the indices of its rows."""

    weights: tuple[float, ...]
    caught: tuple[tuple[int, ...], ...]


def select(rows: Sequence[Assessment], rules: Sequence[Rule]) -> Selection:
    """Rules apply to rows of the train split alone, so that the dev loss stays comparable."""
    caught = tuple(tuple(sorted(_caught(rows, rule))) for rule in rules)
    weights = [1.0] * len(rows)
    for rule, indices in zip(rules, caught, strict=True):
        for index in indices:
            weights[index] *= rule.weight
    return Selection(tuple(weights), caught)


def describe_selection(
    rows: Sequence[Assessment], rules: Sequence[Rule], selection: Selection
) -> dict[str, Any]:
    """Counts, and for every rule some of what it caught, the furthest from the bound first."""
    return {
        "dropped": sum(weight == 0 for weight in selection.weights),
        "down_weighted": sum(0 < weight < 1 for weight in selection.weights),
        "rules": [
            {
                "rule": rule.text,
                "weight": rule.weight,
                "caught": len(caught),
                "examples": [
                    {
                        "id": rows[index].id,
                        "kind": rows[index].kind,
                        "question": rows[index].question,
                        "answer": rows[index].target_answer,
                        "rationale": rows[index].rationale,
                        "score": float(getattr(rows[index], rule.score)),
                    }
                    for index in sorted(caught, key=_extreme(rows, rule))[:NUM_EXAMPLES]
                ],
            }
            for rule, caught in zip(rules, selection.caught, strict=True)
        ],
    }


def _extreme(rows: Sequence[Assessment], rule: Rule) -> Callable[[int], tuple[float, str]]:
    sign = -1 if rule.above is not None or rule.highest is not None else 1
    return lambda index: (sign * float(getattr(rows[index], rule.score)), rows[index].id)


def _caught(rows: Sequence[Assessment], rule: Rule) -> list[int]:
    indices: list[int] = []
    for kind in ("factual", "counterfactual"):
        scored = [
            (float(score), row.id, row.sample, index)
            for index, row in enumerate(rows)
            if row.split == "train" and row.kind == kind and (score := getattr(row, rule.score)) is not None
        ]
        # Ties go by id, so that the order of the rows does not matter.
        scored.sort(reverse=rule.highest is not None)
        share = rule.lowest if rule.lowest is not None else rule.highest
        if share is not None:
            indices += [index for *_, index in scored[: math.floor(share * len(scored))]]
        elif rule.below is not None:
            indices += [index for score, *_, index in scored if score < rule.below]
        elif rule.above is not None:
            indices += [index for score, *_, index in scored if score > rule.above]
    return indices
