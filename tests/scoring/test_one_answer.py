"""A simulator that gives one answer whatever it sees is told of, because LAS is 0 then."""

from __future__ import annotations

from dataclasses import replace

import pytest
from reports import method_report

from cotray.records import Simulation
from cotray.report.verdicts import verdicts
from cotray.scoring.one_answer import blind, one_answer


def row(student: str, sim_x: str, sim_xe: str) -> Simulation:
    fixed = {"id": "a", "task": "yes_no", "question": "Q?", "choices": ["yes", "no"], "answer": "yes"}
    return Simulation.from_row(fixed | {"student_answer": student, "sim_x": sim_x, "sim_xe": sim_xe})


def test_answers_are_counted_whatever_their_case_and_with_and_without_the_rationale() -> None:
    rows = [row("Yes", "yes", "Yes"), row("no", "yes", "yes"), row("no", "no", "yes"), row("no", "no", "no")]
    assert one_answer(rows) == {"answer": "yes", "n": 4, "simulator": 2, "student": 1}
    assert one_answer([]) == {"answer": "", "n": 0, "simulator": 0, "student": 0}


@pytest.mark.parametrize(
    ("simulator", "student", "said"),
    [
        (100, 50, "Train the simulator longer"),
        (96, 90, "Train the simulator longer"),
        (95, 50, None),
        (100, 99, "no rationale can tell more"),
    ],
)
def test_a_simulator_is_told_of_above_95_percent(simulator: int, student: int, said: str | None) -> None:
    sentence = blind({"answer": "no", "n": 100, "simulator": simulator, "student": student})
    assert (sentence is None) == (said is None)
    if sentence:
        assert said in sentence and f"{simulator} of 100 test questions" in sentence


def test_a_report_says_first_that_the_simulator_gives_one_answer() -> None:
    found = {"answer": "no", "n": 40, "simulator": 40, "student": 22}
    method = replace(method_report("greedy"), one_answer=found)
    assert verdicts([method], [])[0].startswith(
        'greedy: the simulator answers "no" to 40 of 40 test questions'
    )
    assert not any("simulator answers" in said for said in verdicts([method_report("greedy")], []))
