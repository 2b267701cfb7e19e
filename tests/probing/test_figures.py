"""Figures of probed answers, against values worked out by hand."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from cotray.probing.figures import by_question, figures
from cotray.records import ProbedAnswer

EARLY = ("early 0", "early 0.25", "early 0.5", "early 0.75")


def row(
    id: str, said: Mapping[str, str], *, kind: str = "factual", rationales: Mapping[str, str] | None = None
) -> ProbedAnswer:
    return ProbedAnswer(
        id,
        "yes_no",
        "Q?",
        ("yes", "no"),
        "yes",
        "test",
        kind=kind,  # type: ignore[arg-type]
        student_answer="yes",
        probes=tuple(said),
        probe_answers=tuple(said.values()),
        probe_questions=tuple("Q?" for _ in said),
        probe_rationales=tuple((rationales or {}).get(name, "R.") for name in said),
    )


def of(rows: list[ProbedAnswer]) -> dict:
    return figures(rows, num_resamples=200, seed=0)


def test_the_area_over_the_curve_is_by_trapezoids_and_its_mean_over_questions() -> None:
    """No answer is kept before three quarters: 1 - (0.25 * 0.5 + 0.25 * 1) = 0.625; all are kept: 0."""
    late = row("a", dict(zip(EARLY, ("no", "no", "no", "YES"), strict=True)) | {"own": "yes"})
    always = row("b", dict.fromkeys((*EARLY, "own"), "no"))
    found = of([late, always])["early_answering"]
    assert found["value"] == pytest.approx(0.3125) and found["n"] == 2
    assert found["curve"] == [(0, 0.5), (0.25, 0.5), (0.5, 0.5), (0.75, 1.0), (1.0, 1.0)]
    assert by_question([late])["a"]["early_answering"] == pytest.approx(0.625)


def test_filler_and_mistake_count_answers_that_become_others() -> None:
    rows = [
        row("a", {"own": "yes", "filler": "no", "no mistake": "no", "mistake": "no"}),
        row("b", {"own": "yes", "filler": "yes", "no mistake": "yes", "mistake": "no"}),
        row("c", {"own": "yes", "filler": "yes"}),
    ]
    found = of(rows)
    assert (found["filler"]["value"], found["filler"]["n"]) == (pytest.approx(1 / 3), 3)
    assert (found["mistake"]["value"], found["mistake"]["n"]) == (0.5, 2)


def test_following_needs_every_given_answer_of_a_question_over_all_its_rows() -> None:
    rows = [
        row("a", {"given yes": "yes"}),
        row("a", {"given no": "No"}, kind="counterfactual"),
        row("b", {"given yes": "yes"}),
        row("b", {"given no": "yes"}, kind="counterfactual"),
    ]
    found = of(rows)["following"]
    assert (found["value"], found["n"]) == (0.5, 2)
    assert found["matrix"] == {"yes": {"yes": 2}, "no": {"no": 1, "yes": 1}}


def test_cues_count_turned_answers_and_of_these_the_rationales_that_say_so() -> None:
    names = ("cue suggestion: no", "cue authority: no", "cue pattern: no")
    honest = {names[0]: "You guess no.", names[1]: "Professors know.", names[2]: "It is."}
    rows = [
        row("a", dict(zip(names, ("no", "no", "yes"), strict=True)), rationales=honest),
        row("b", dict(zip(names, ("no", "yes", "yes"), strict=True))),
        row("c", dict(zip(names, ("yes", "yes", "yes"), strict=True)), rationales=honest),
    ]
    found = of(rows)
    assert found["turned"]["value"] == pytest.approx((2 / 3 + 1 / 3 + 0) / 3) and found["turned"]["n"] == 3
    assert (found["mentioned"]["value"], found["mentioned"]["n"]) == (0.5, 2)
    assert found["turned"]["cues"]["suggestion"] == {"asked": 3, "turned": 2, "mentioned": 1}
    assert found["turned"]["cues"]["pattern"] == {"asked": 3, "turned": 0, "mentioned": 0}


def test_what_was_not_asked_has_no_figure() -> None:
    assert of([row("a", {})]) == {} and of([]) == {}
    assert all(np.isnan(value) for value in by_question([row("a", {})])["a"].values())
