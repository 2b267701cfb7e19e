"""A student or a simulator that gives one answer whatever it is asked is told of, because LAS is 0 then."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from reports import method_report

from cotray.records import Simulation
from cotray.report.verdicts import verdicts
from cotray.scoring.constant_answers import commonest_answers, constant


def row(student: str, sim_x: str, sim_xe: str, gold: str = "yes") -> Simulation:
    fixed = {"id": "a", "task": "yes_no", "question": "Q?", "choices": ["yes", "no"], "answer": gold}
    return Simulation.from_row(fixed | {"student_answer": student, "sim_x": sim_x, "sim_xe": sim_xe})


def found(*, gold: int = 50, student: int = 50, simulator: int = 50) -> dict[str, Any]:
    counts = {"gold": gold, "student": student, "simulator": simulator}
    return {"n": 100, "shares_choices": True} | {
        name: {"answer": "no", "count": count} for name, count in counts.items()
    }


def test_answers_are_counted_whatever_their_case_and_the_simulators_where_the_rationale_changes_nothing() -> (
    None
):
    rows = [
        row("Yes", "yes", "Yes"),
        row("no", "yes", "yes"),
        row("no", "no", "yes", "no"),
        row("no", "no", "no"),
    ]
    assert commonest_answers(rows) == {
        "n": 4,
        "shares_choices": True,
        "gold": {"answer": "yes", "count": 3},
        "student": {"answer": "no", "count": 3},
        "simulator": {"answer": "yes", "count": 2},
    }
    nothing = {"answer": "", "count": 0}
    empty = {"n": 0, "shares_choices": False}
    assert commonest_answers([]) == empty | {"gold": nothing, "student": nothing, "simulator": nothing}


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        (
            {"student": 96, "simulator": 100},
            'the student answers "no" to 96 of 100 test questions: it does not',
        ),
        ({"student": 96, "gold": 97}, "as is right for nearly all"),
        ({"student": 95, "simulator": 96}, 'the simulator answers "no" to 96 of 100 test questions'),
        ({"student": 95, "simulator": 95}, None),
    ],
)
def test_constant_answers_are_told_of_above_95_percent(counts: dict[str, int], said: str | None) -> None:
    sentence = constant(found(**counts))
    assert sentence is None if said is None else said in str(sentence)


def test_a_report_says_first_that_a_student_gives_one_answer() -> None:
    method = replace(method_report("greedy"), commonest_answers=found(student=100))
    assert verdicts([method], [])[0].startswith(
        'greedy: the student answers "no" to 100 of 100 test questions'
    )
    assert not any("answers" in said for said in verdicts([method_report("greedy")], [])[:-1])


def test_a_report_says_that_a_student_does_not_name_its_answers_and_that_it_had_few_steps() -> None:
    part = {"value": 0.25, "ci95": (0.1, 0.4), "n": 32}
    method = replace(method_report("greedy"), wrote_answer=part, counts={"training steps": 3})
    said = verdicts([method], [])
    assert said[0] == (
        "greedy: the student was trained in 3 steps, which hardly change it: raise student.training.epochs "
        "or learning_rate, or use more questions."
    )
    assert said[1] == (
        "greedy: the student named its answer in 8 of 32 texts; elsewhere it was asked for one after its "
        "rationale, and that is the likeliest choice, whatever it had written."
    )
