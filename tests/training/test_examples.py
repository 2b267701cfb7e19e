"""What a student learns from, beside its order and its batches."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

from cotray.records import Rationale
from cotray.training.examples import with_shuffled_rationales


def rows() -> list[Rationale]:
    base = Rationale("", "yes_no", "?", ("yes", "no"), "yes", target_answer="yes")
    return [
        replace(base, id=f"q{number}", split=split, kind=kind, rationale=f"{split} {kind} {number}")
        for number in range(9)
        for split in ("train", "dev")
        for kind in ("factual", "counterfactual")
    ]


def test_shuffled_rationales_are_those_of_other_questions_of_the_same_split_and_kind() -> None:
    original = rows()
    shuffled = with_shuffled_rationales(original, seed=1)
    own = {(row.id, row.split, row.kind): row.rationale for row in original}
    for row in shuffled:
        assert row.rationale != own[row.id, row.split, row.kind]
        assert row.rationale.startswith(f"{row.split} {row.kind} ")
    assert Counter(row.rationale for row in shuffled) == Counter(own.values())


def test_which_rationale_a_question_gets_depends_on_the_seed_and_not_on_the_order_of_the_rows() -> None:
    def by_row(given: list[Rationale], seed: int) -> dict[tuple[str, str, str], str]:
        return {(r.id, r.split, r.kind): r.rationale for r in with_shuffled_rationales(given, seed=seed)}

    mixed = random.Random(0).sample(rows(), len(rows()))
    assert by_row(rows(), 1) == by_row(mixed, 1) != by_row(mixed, 2)


def test_a_question_alone_keeps_its_rationale() -> None:
    alone = rows()[:1]
    assert with_shuffled_rationales(alone, seed=1) == alone
