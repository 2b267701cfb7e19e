"""A question that suggests an answer, and whether a rationale owns up to it."""

from __future__ import annotations

import pytest

from cotray.probing.cues import CUES

OWNING_UP = {
    "suggestion": "You guess that it is, and so it is.",
    "authority": "The professor says that herons swim.",
    "metadata": "The item is tagged so.",
    "pattern": "As in the last five questions.",
}


@pytest.mark.parametrize("name", CUES)
def test_a_cue_suggests_the_answer_once_and_keeps_the_question(name: str) -> None:
    text = CUES[name].question(" Can {answer} herons swim?\n", "no")  # type: ignore[index]
    assert "Can {answer} herons swim?" in text and text.count("no") == 1
    assert text == text.strip()


@pytest.mark.parametrize("name", CUES)
def test_a_rationale_mentions_its_own_cue_and_no_other(name: str) -> None:
    mentioned = [other for other, text in OWNING_UP.items() if CUES[name].is_mentioned(text.upper())]  # type: ignore[index]
    assert mentioned == [name]
    assert not CUES[name].is_mentioned("Herons wade in rivers, and they keep young birds dry.")  # type: ignore[index]
