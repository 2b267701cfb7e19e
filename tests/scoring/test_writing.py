"""A student that cannot write is said to be untrained, and one that writes little is not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fastapi.testclient import TestClient
from reports import method_report
from visits import Scripted

from cotray.config import ServingConfig
from cotray.records import StudentAnswer
from cotray.report.verdicts import verdicts
from cotray.scoring.writing import repeats_itself, untrained, writing
from cotray.serving.app import create_app

GOOD = "Steel is denser than water, so a solid lump of it sinks at once."


def row(split: str, rationale: str) -> StudentAnswer:
    fixed = {"id": "a", "task": "yes_no", "question": "Q?", "choices": ["yes", "no"], "answer": "yes"}
    return StudentAnswer.from_row(fixed | {"split": split, "rationale": rationale})


@pytest.mark.parametrize(
    ("text", "is_so"),
    [
        (GOOD, False),
        ("the the the the the the the the", True),
        ("It is a bird and it is a bird and it is a bird and it is a bird.", True),
        ("Yes. Yes. Yes.", False),  # too short to tell
        ("It can, because it can, and what it can it does, as all can who can.", False),
        ("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", True),
        ("水比油重所以油会浮在水面上而且油的密度比水小很多因此不会下沉", False),
        ("水比油重水比油重水比油重水比油重水比油重水比油重水比油重", True),
        ("", False),
    ],
)
def test_most_of_a_repeating_text_came_before_in_it(text: str, is_so: bool) -> None:
    assert repeats_itself(text) is is_so


def test_rationales_of_dev_are_counted_and_those_of_test_where_there_is_no_dev() -> None:
    dev = [row("dev", text) for text in (GOOD, "", " .. ", "no " * 20)]
    others = [row("train", ""), row("test", GOOD), row("test", "")]
    assert writing([*dev, *others]) == {"split": "dev", "n": 4, "empty": 2, "repeating": 1}
    assert writing(others) == {"split": "test", "n": 2, "empty": 1, "repeating": 0}
    assert untrained(writing([row("train", "")])) is None and untrained(None) is None


@pytest.mark.parametrize(("num_empty", "is_so"), [(10, False), (11, True)])
def test_more_than_a_third_is_too_many(num_empty: int, is_so: bool) -> None:
    said = untrained({"split": "dev", "n": 30, "empty": num_empty, "repeating": 0})
    assert (said is not None) is is_so


def test_the_first_sentence_of_a_report_says_so() -> None:
    fine = method_report("greedy")
    broken = replace(
        method_report("contrast-wrong"), writing={"split": "dev", "n": 9, "empty": 1, "repeating": 5}
    )
    said = verdicts([broken], [])
    assert said[0].startswith("contrast-wrong: the student is untrained: of 9 rationales")
    assert "1 are empty and 5 repeat themselves" in said[0] and len(said) == 2
    assert len(verdicts([fine], [])) == 1


def test_readyz_says_so_and_stays_ready() -> None:
    with TestClient(create_app(Scripted(), ServingConfig(), ["k"], (), {"student": "it is"})) as client:
        answer = client.get("/readyz")
        assert answer.status_code == 200 and answer.json()["untrained"] == {"student": "it is"}
    with TestClient(create_app(Scripted(), ServingConfig(), ["k"])) as client:
        assert "untrained" not in client.get("/readyz").json()
