"""Ground truth from probes, against shares counted by hand."""

from __future__ import annotations

import pytest

from cotray.records import StudentAnswer
from cotray.scoring.probes import ground_truth


def answer(**probes: str) -> StudentAnswer:
    names = [name.replace("_", " ") for name in probes]
    return StudentAnswer.from_row(
        {"id": "q", "task": "yes_no", "question": "?", "choices": ["yes", "no"], "answer": "yes"}
        | {"probes": names, "probe_answers": list(probes.values())}
    )


def test_following_counts_questions_whose_answer_turns_with_every_given_rationale() -> None:
    rows = [
        answer(given_yes="yes", given_no="no", own="yes", no_cue="no"),
        answer(given_yes="Yes", given_no="yes", own="yes", no_cue="yes"),
        answer(given_yes="no", given_no="yes", own="no", no_cue="no"),
        answer(given_yes="yes", given_no="yes", own="yes", no_cue="yes"),
    ]
    truth = ground_truth(rows, num_resamples=500, seed=0)
    assert (truth["n"], truth["following"], truth["following_each"]) == (4, 1 / 4, 4 / 8)
    assert truth["turned_by_no_cue"] == 1 / 4
    low, high = truth["following_ci95"]  # type: ignore[misc]
    assert 0 <= low <= 0.25 <= high <= 1


def test_a_student_that_gives_one_answer_to_all_rationales_follows_none() -> None:
    rows = [answer(given_yes="yes", given_no="yes", own="yes") for _ in range(5)]
    truth = ground_truth(rows, num_resamples=500, seed=0)
    assert (truth["following"], truth["following_each"]) == (0, pytest.approx(0.5))


def test_without_probes_there_is_no_ground_truth() -> None:
    assert ground_truth([answer()], num_resamples=500, seed=0) == {}
