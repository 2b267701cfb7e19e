"""The criteria's rates and agreement: Krippendorff's alpha and intervals, worked out another way."""

from __future__ import annotations

from collections import defaultdict
from itertools import product

import numpy as np
import pytest
from rated import item

from cotray.criteria.agreement import agreement, agreement_with
from cotray.criteria.yes_rates import yes_rates
from cotray.prompts.criteria import Rating

YES, NO, VACUOUS = Rating(True, True, True), Rating(True, True, False), Rating(True, False, None)


def test_alpha_equals_a_hand_computation() -> None:
    """yy yn nn nn: of 8 verdicts 3 are yes, so De = 2·3·5 / (8·7); one pair of 4 differs, so Do = 2/8."""
    one, other = dict(zip("abcd", [1, 1, 0, 0], strict=True)), dict(zip("abcd", [1, 0, 0, 0], strict=True))
    seen = agreement({"p": {k: bool(v) for k, v in one.items()}, "q": {k: bool(v) for k, v in other.items()}})
    assert seen.alpha == pytest.approx(1 - (2 / 8) / (30 / 56))
    assert (seen.raw, seen.num_pairs) == (0.75, 4)


def naive_alpha(verdicts: dict[str, dict[str, bool | None]]) -> float:
    """From the coincidence matrix, pair by pair, as Krippendorff writes it."""
    items = {item for of in verdicts.values() for item in of}
    matrix: dict[tuple, float] = defaultdict(float)
    for one in items:
        values = [of[one] for of in verdicts.values() if of.get(one) is not None]
        for (i, a), (j, b) in product(enumerate(values), repeat=2):
            if i != j:
                matrix[a, b] += 1 / (len(values) - 1)
    total = {value: sum(n for (a, _), n in matrix.items() if a == value) for value in (True, False)}
    n = sum(total.values())
    return 1 - matrix[True, False] * (n - 1) / (total[True] * total[False])


def test_alpha_with_missing_verdicts_equals_the_coincidence_matrix() -> None:
    draws = np.random.default_rng(3)
    verdicts: dict[str, dict[str, bool | None]] = {
        f"p{p}": {f"i{i}": [True, False, None][draws.choice(3, p=[0.5, 0.3, 0.2])] for i in range(40)}
        for p in range(4)
    }
    assert agreement(verdicts).alpha == pytest.approx(naive_alpha(verdicts))


def test_alpha_without_variation_or_pairs_is_undefined() -> None:
    same = {"a": True, "b": True}
    seen = agreement({"p": same, "q": same})
    assert (seen.alpha, seen.raw, seen.num_pairs) == (None, 1.0, 2)
    # c varies, but only one rated it.
    assert agreement({"p": same | {"c": False}, "q": same}).alpha is None
    assert agreement({"p": same}).raw is None


def test_judge_agrees_with_each_person_on_average() -> None:
    people = {"p": {"a": True, "b": False, "c": True}, "q": {"a": False, "b": False, "c": None}}
    judge = {"a": True, "b": False, "c": True}
    seen = agreement_with(people, judge)
    assert (seen.raw, seen.num_pairs) == (4 / 5, 5)
    # With p perfect; with q: verdicts T F | F F, so Do = 2/4 and De = 2·1·3 / (4·3).
    assert seen.alpha == pytest.approx((1 + (1 - 0.5 / 0.5)) / 2)


def test_interval_resamples_rationales_with_all_their_verdicts() -> None:
    """Three raters who always agree say no more than one: the interval is that of 20 coins, not of 60."""
    items = [item(str(n), ("teacher", "greedy")) for n in range(20)]
    said = {str(n): YES if n < 10 else NO for n in range(20)}
    settings = {"num_resamples": 4000, "seed": 1}
    one, three = (
        {r.measure: r for r in yes_rates(items, dict.fromkeys(names, said), **settings)}
        for names in ("a", "abc")
    )
    assert one["supports_answer"].ci95 == three["supports_answer"].ci95
    low, high = one["supports_answer"].ci95 or (0, 0)
    half = 1.96 * (0.25 / 20) ** 0.5
    assert (low, high) == pytest.approx((0.5 - half, 0.5 + half), abs=0.06)


def test_conditional_rate_is_over_those_that_were_asked() -> None:
    items = [item(str(n), ("teacher", "greedy"), ("student", "greedy")) for n in range(4)]
    ratings = {"p": {"0": YES, "1": NO, "2": VACUOUS, "3": VACUOUS}}
    rates = {(r.writer, r.measure): r for r in yes_rates(items, ratings, num_resamples=500, seed=0)}
    for writer in ("teacher", "student"):
        assert rates[writer, "supports_answer"].rate == 0.25
        assert rates[writer, "supports_given_new"].rate == 0.5
        assert rates[writer, "supports_given_new"].num_items == 2


def test_rating_is_complete() -> None:
    for new, supports in ((True, None), (False, True), (False, False)):
        with pytest.raises(ValueError, match="exactly where new_info is yes"):
            Rating(True, new, supports)
