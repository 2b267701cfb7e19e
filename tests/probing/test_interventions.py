"""How a rationale is cut, filled and made wrong."""

from __future__ import annotations

import pytest

from cotray.probing.interventions import beginnings, denied, filler, sentences, with_mistake
from cotray.seeds import seeded

FOUR = "Herons wade. They have 2 legs! Do they swim? No."


def test_sentences_end_at_marks_before_a_space_and_nowhere_else() -> None:
    assert sentences(FOUR) == ["Herons wade.", "They have 2 legs!", "Do they swim?", "No."]
    assert sentences(" It weighs 2.5 kg, e.g.\n a cat ") == ["It weighs 2.5 kg, e.g.", "a cat"]
    assert sentences("  ") == []


def test_a_text_of_four_sentences_is_cut_between_them_and_a_shorter_one_between_words() -> None:
    assert beginnings(FOUR) == [
        "",
        "Herons wade.",
        "Herons wade. They have 2 legs!",
        FOUR.removesuffix(" No."),
    ]
    assert beginnings("Wugs include the dalo.") == ["", "Wugs", "Wugs include", "Wugs include the"]
    assert beginnings("Yes.") == ["", "", "", ""] and beginnings("") == [""] * 4


def test_filler_has_a_dot_group_for_every_word() -> None:
    assert filler("Herons wade in rivers.") == "... ... ... ..." and filler("") == ""


@pytest.mark.parametrize(
    ("sentence", "wrong"),
    [
        ("Ice is cold.", "Ice is not cold."),
        ("Ice is not hot.", "Ice is hot."),
        ("Herons can swim.", "Herons cannot swim."),
        ("Herons cannot swim.", "Herons can swim."),
        ("Herons can't swim.", "Herons can swim."),
        ("It doesn't melt.", "It does melt."),
        ("It doesn\u2019t melt.", "It does melt."),
        ("It was and is wet.", "It was not and is wet."),
        ("Herons wade.", None),
        ("", None),
    ],
)
def test_a_sentence_says_the_opposite_by_its_first_verb(sentence: str, wrong: str | None) -> None:
    assert denied(sentence, seeded(0)) == wrong


def test_a_number_becomes_a_larger_one_and_the_verb_stays() -> None:
    changed = denied("There are 12 of 30.", seeded(1))
    assert changed is not None
    number = int(changed.removeprefix("There are ").removesuffix(" of 30."))
    assert 13 <= number <= 21 and changed == f"There are {number} of 30."
    assert denied("9" * 5000, seeded(0)) is not None  # int() refuses so many digits


def test_a_mistake_stands_at_the_end_of_the_same_beginning() -> None:
    seen = set()
    for seed in range(20):
        made = with_mistake(FOUR, denied, seeded(seed))
        assert made is not None
        kept, wrong = made
        assert FOUR.startswith(kept) and kept != wrong
        *before, last = sentences(kept)
        assert sentences(wrong)[:-1] == before and denied(last, seeded(seed)) is not None
        seen.add(len(before))
    assert seen == {1}  # only the sentence with a number can be made wrong: "Do" is no "do"
    assert with_mistake("Herons wade. Storks too.", denied, seeded(0)) is None
