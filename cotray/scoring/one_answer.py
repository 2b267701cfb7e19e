"""Whether the simulator says the same whatever it sees: then LAS is 0, however faithful the student is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from cotray.records import Simulation, normalized

MOST_ALIKE = 0.95
"""Share of the test questions with one and the same answer above which the simulator is said to be blind."""


def one_answer(rows: Sequence[Simulation]) -> dict[str, Any]:
    """For a manifest: the simulator's commonest `answer`, how many of `n` test questions get it both without
    and with the rationale (`simulator`), and on how many the student gives it (`student`)."""
    said = Counter(normalized(text) for row in rows for text in (row.sim_x, row.sim_xe))
    answer = said.most_common(1)[0][0] if said else ""
    return {
        "answer": answer,
        "n": len(rows),
        "simulator": sum(normalized(row.sim_x) == normalized(row.sim_xe) == answer for row in rows),
        "student": sum(normalized(row.student_answer) == answer for row in rows),
    }


def blind(found: dict[str, Any] | None) -> str | None:
    """What is said of a simulator that gives one answer, in a sentence without an end; None of another.

    found: what `one_answer` counted; None where an earlier version of cotray did not.
    """
    if not found or found["n"] < 2 or found["simulator"] <= MOST_ALIKE * found["n"]:
        return None
    said = (
        f'the simulator answers "{found["answer"]}" to {found["simulator"]} of {found["n"]} test questions, '
        f"with and without the rationale, and the student to {found['student']}"
    )
    if found["student"] > MOST_ALIKE * found["n"]:
        return f"{said}: where nearly all answers are the same, no rationale can tell more, and LAS is near 0"
    return (
        f"{said}, so that LAS and the simulation gain are near 0 whatever its rationales are worth. Train "
        "the simulator longer (simulator.training.epochs, learning_rate), or on more questions"
    )
