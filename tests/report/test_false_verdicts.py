"""How often a difference is seen between two sides of one and the same method, in simulated sweeps.

python tests/report/test_false_verdicts.py      the table of docs/explanation/method.md#figures-over-seeds
"""

from __future__ import annotations

import numpy as np
import pytest

from cotray.report.comparison import STUDENT_FIGURES, compare

ACCURACY = STUDENT_FIGURES["accuracy"]
CASES = [(152, 2, 0.125), (152, 3, 0.0), (152, 3, 0.125), (152, 3, 0.2), (152, 6, 0.2), (1000, 3, 0.125)]
"""Questions, seeds, and the standard deviation of a run's accuracy."""


def side(random_: np.random.Generator, easy: np.ndarray, num_seeds: int, spread: float) -> np.ndarray:
    """Runs of one method, (runs, questions): how easy a question is and how good a run is add up."""
    good = random_.normal(0, spread, size=(num_seeds, 1))
    return (random_.random((num_seeds, len(easy))) < np.clip(easy + good, 0, 1)).astype(float)


def sweeps(num_sweeps: int, num_questions: int, num_seeds: int, spread: float):
    """Of each sweep, both sides."""
    random_ = np.random.default_rng((num_questions, num_seeds, round(1000 * spread)))
    for _ in range(num_sweeps):
        easy = random_.uniform(0.2, 1.0, size=num_questions)
        yield [side(random_, easy, num_seeds, spread) for _ in range(2)]


def share_told_apart(num_sweeps: int, *case: float) -> float:
    found = [
        compare({"right": one}, {"right": other}, ACCURACY, num_resamples=200, seed=number).at(0.95).sign
        for number, (one, other) in enumerate(sweeps(num_sweeps, *case))  # type: ignore[arg-type]
    ]
    return float(np.mean(np.abs(found)))


def share_when_runs_are_resampled(num_sweeps: int, *case: float) -> float:
    """The usual bootstrap, for the table: questions and, for each side, runs are drawn."""
    told = 0
    for number, sides in enumerate(sweeps(num_sweeps, *case)):  # type: ignore[arg-type]
        random_ = np.random.default_rng(number)
        differences = []
        for _ in range(200):
            questions = random_.integers(sides[0].shape[1], size=sides[0].shape[1])
            means = [runs[random_.integers(len(runs), size=len(runs))][:, questions].mean() for runs in sides]
            differences.append(means[0] - means[1])
        low, high = np.quantile(differences, [0.025, 0.975])
        told += low > 0 or high < 0
    return told / num_sweeps


@pytest.mark.parametrize("case", CASES, ids=str)
def test_two_sides_of_the_same_method_are_told_apart_no_more_than_once_in_twenty(
    case: tuple[int, int, float],
) -> None:
    """Of 300 sweeps: chance makes of 5 % no more than 24 with a probability of 99 %."""
    assert share_told_apart(300, *case) <= 24 / 300


def test_resampling_three_runs_would_tell_them_apart_twice_as_often() -> None:
    assert share_when_runs_are_resampled(300, 152, 3, 0.2) > 0.1


if __name__ == "__main__":
    for case in CASES:
        old, new = share_when_runs_are_resampled(2000, *case), share_told_apart(2000, *case)
        print(f"| {case[0]:,} | {case[1]} | {case[2]} | {old:.1%} | {new:.1%} |", flush=True)
