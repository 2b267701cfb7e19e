"""What `probe` says it will cost, depends on, and writes of a row that it cannot make."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cotray.config import parse_config
from cotray.records import ProbedAnswer, Rationale
from cotray.stages.probe import _dead_letter, _failed, asks_teacher, cost, settings_of

ALL = ["early_answering", "filler", "mistake", "following", "hidden_influence"]


def config(**probing: Any):
    return parse_config({"probing": probing})


@pytest.mark.parametrize(
    ("measures", "said"),
    [
        (
            ALL,
            "at most 5 rationales that the student writes, and 8 answers after rationales that are given",
        ),
        (["early_answering"], "at most 1 rationales that the student writes, and 5 answers"),
        (["filler", "early_answering"], "1 rationales that the student writes, and 6 answers"),
        (["mistake"], "1 rationales that the student writes, and 2 answers"),
        (["hidden_influence"], "at most 5 rationales that the student writes"),
    ],
)
def test_the_cost_counts_what_is_asked_of_each_question(measures: list[str], said: str) -> None:
    assert said in cost(config(measures=measures))


def test_in_the_world_one_word_is_the_cue_and_the_teacher_is_not_asked() -> None:
    world = parse_config({"data": {"path": "world"}, "probing": {"measures": ALL}})
    assert "at most 2 rationales" in cost(world) and "teacher" not in cost(world)
    assert not asks_teacher(world) and asks_teacher(config(measures=["following"]))
    assert not asks_teacher(config(measures=["filler"]))


def test_the_order_of_measures_and_cues_that_nobody_asks_for_change_no_row() -> None:
    one = settings_of(config(measures=["filler", "mistake"], cues=["authority"]))
    assert one == settings_of(config(measures=["mistake", "filler"], cues=["pattern"]))
    assert one != settings_of(config(measures=["mistake"])) and one["dtype"] == "float32"
    assert settings_of(config(measures=ALL, num_gpus=1))["dtype"] == "bfloat16"


def test_a_row_that_cannot_be_made_is_a_dead_letter_with_its_error() -> None:
    row = Rationale("q", "yes_no", "Q?", ("yes", "no"), "yes", "test", rationale="R.", target_answer="yes")
    [made] = _failed(row, "too long", 3)
    assert made == ProbedAnswer(
        "q", "yes_no", "Q?", ("yes", "no"), "yes", "test", target_answer="yes", error="too long", attempts=3
    )
    letter = _dead_letter("other_answers", made)
    assert (letter.stage, letter.id, letter.reason, letter.attempts) == ("other_answers", "q", "too long", 3)
    assert json.loads(letter.row)["target_answer"] == "yes"
