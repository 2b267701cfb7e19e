"""Whether student or simulator says the same to every question: then LAS is about 0, for that reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from cotray.records import Simulation, normalized

FEWEST = 10
"""Test questions, below which nothing is said."""
MOST_ALIKE = 0.95
"""Share of the test questions with one and the same answer above which answers are said to be constant."""


def commonest_answers(rows: Sequence[Simulation]) -> dict[str, Any]:
    """For a manifest: of `n` test questions the commonest answer of the data (`gold`), of the `student` and
    of the `simulator`, who has to give it without the rationale and with it; each `answer` and `count`.
    `shares_choices`: all questions have the same, so that one answer may be right for many."""
    simulated = (row.sim_x if normalized(row.sim_x) == normalized(row.sim_xe) else "" for row in rows)
    return {
        "n": len(rows),
        "shares_choices": len({tuple(sorted(map(normalized, row.choices))) for row in rows}) == 1,
        "gold": _commonest(row.answer for row in rows),
        "student": _commonest(row.student_answer for row in rows),
        "simulator": _commonest(text for text in simulated if text),
    }


def constant(found: dict[str, Any] | None) -> str | None:
    """What is said of constant answers, in a sentence without an end; None where they differ, as they should,
    or are few.

    found: `commonest_answers`; None where an earlier version of cotray did not count them.
    """
    if not found or found["n"] < FEWEST:
        return None
    most = MOST_ALIKE * found["n"]
    gold, student, simulator = found["gold"], found["student"], found["simulator"]
    if student["count"] > most:
        said = f'the student answers "{student["answer"]}" to {_of(student, found)}'
        if not student["answer"]:
            return f"the student gave no answer to {_of(student, found)}"
        if gold["count"] > most and gold["answer"] == student["answer"]:
            return f"{said}, as is right for nearly all, so that its rationales have nothing to tell"
        return (
            f"{said}: it does not tell them apart, and its other figures mean nothing. A trained one needs "
            "more steps (student.training.epochs, learning_rate) or more questions"
        )
    if simulator["count"] > most:
        return (
            f'the simulator answers "{simulator["answer"]}" to {_of(simulator, found)}, without the '
            "rationale and with it, so that LAS and the simulation gain are near 0 whatever rationales are "
            "worth. A trained one needs more steps (simulator.training.epochs, learning_rate) or questions"
        )
    return None


def _commonest(texts: Iterable[str]) -> dict[str, Any]:
    counted = Counter(map(normalized, texts)).most_common(1) or [("", 0)]
    return {"answer": counted[0][0], "count": counted[0][1]}


def _of(part: dict[str, Any], found: dict[str, Any]) -> str:
    return f"{part['count']} of {found['n']} test questions"
