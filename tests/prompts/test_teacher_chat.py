"""Replies of chat models become rationales without the given answer, and answers that name a choice."""

from __future__ import annotations

import pytest

from cotray.config import TeacherConfig
from cotray.prompts.teacher_chat import TeacherChat, explanation, named_answer, reasoned, reply_text
from cotray.records import QAPair, TeacherRequest

QUESTION = QAPair("1", "multiple_choice", "What floats?", ("a small boat", "sand", "sand castle"), "sand")
YES_NO = QAPair("2", "yes_no", "Is ice cold?", ("yes", "no"), "yes")


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ("Ice is frozen water.", "Ice is frozen water."),
        ("The answer is yes. Ice is frozen water.", "Ice is frozen water."),
        ("**Answer:** Yes. Ice is frozen water.", "Ice is frozen water."),
        ("The answer is yes because ice is frozen water.", "Ice is frozen water."),
        ('The correct answer is "yes", since ice is frozen.', "Ice is frozen."),
        ("Ice is frozen water. So the answer is yes.", "Ice is frozen water."),
        ("Ice is frozen water. Therefore, the answer is **yes**.", "Ice is frozen water."),
        ("Ice is frozen water, so the answer is yes.", "Ice is frozen water."),
        ("Ice is frozen. Water is wet. The final answer is: Yes", "Ice is frozen. Water is wet."),
        ("<think>The answer is no.</think>\nIce is frozen.", "Ice is frozen."),
        ("<think>Ice is", ""),
        ("**Explanation:** Ice is frozen.", "Ice is frozen."),
        ("The answer is yes.", ""),
        ("So the answer is yes.", ""),
        # What only looks like it stays.
        ("The answer is yesterday's ice.", "The answer is yesterday's ice."),
        ("Ice is cold. So the answer is no.", "Ice is cold. So the answer is no."),
        ("The answers of physics are clear: ice is cold.", "The answers of physics are clear: ice is cold."),
        ("", ""),
    ],
)
def test_a_given_answer_is_not_part_of_its_explanation(said: str, left: str) -> None:
    assert explanation(said, "yes") == left


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ("sand", "sand"),
        ("The answer is (b).", "sand"),
        ("b", "sand"),
        ("(a) a small boat", "a small boat"),
        ("A small boat.", "a small boat"),
        ("I would say a small boat here", "a small boat"),
        ("sand or a small boat", None),
        ("a sandwich", None),
        ("d", None),
        ("", None),
    ],
)
def test_a_choice_is_named_by_its_text_its_letter_or_alone(said: str, named: str | None) -> None:
    assert named_answer(said, QUESTION) == named


def test_letters_name_no_choice_where_none_are_shown() -> None:
    assert named_answer("a", YES_NO) is None and named_answer("**No.**", YES_NO) == "no"


def test_a_few_shot_reply_is_a_rationale_and_an_answer() -> None:
    assert reasoned("<think>x</think>Ice melts.\n\nSo the answer is **yes**.") == ("Ice melts.", "yes")
    assert reasoned("Ice melts.") == ("Ice melts.", "")
    assert reply_text("  It melts. ") == "It melts."


def test_demonstrations_are_turns_of_the_same_form_as_the_question() -> None:
    config = TeacherConfig.model_validate(
        {
            "engine": "openai",
            "model": "m",
            "num_demonstrations": 2,
            "instructions": "Be brief.",
            "endpoint": {"base_url": "http://localhost/v1"},
        }
    )
    request = TeacherRequest.from_row(QUESTION.to_row() | {"target_answer": "sand"})
    chat = TeacherChat(config)
    for messages in (chat.explaining(request), chat.reasoning(request), chat.answering(request, "R.")):
        roles = [message["role"] for message in messages]
        assert roles == ["system", "user", "assistant", "user", "assistant", "user"]
        asked = [message["content"].rpartition("\n")[2] for message in messages if message["role"] == "user"]
        assert len({text.partition(". ")[2] or text for text in asked}) == 1
    assert "(b) sand" in chat.answering(request, "R.")[-1]["content"]
    assert chat.version != TeacherChat(config.model_copy(update={"instructions": ""})).version
