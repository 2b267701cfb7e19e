"""What a student answers when its question or its rationale is exchanged, and how often it follows.

Where the right counterfactuals are known, these figures are the truth that LAS estimates from outside.
docs/explanation/world.md#ground-truth
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cotray.records import QAPair, StudentAnswer, normalized
from cotray.scoring.statistics import accuracy_ci95

GIVEN = "given "
"""A probe `given ANSWER` gives the rationale from which ANSWER follows."""
OWN = "own"
"""The student's own rationale under the question as it is: what the other probes are compared with."""


@dataclass(frozen=True)
class Probe:
    """One more question to the student: which answer follows this rationale, under this wording?"""

    name: str
    question: str
    rationale: str


Prober = Callable[[QAPair, str], Sequence[Probe]]
"""The probes of a question and the rationale that the student wrote to it."""


def answers_by_probe(row: StudentAnswer) -> dict[str, str]:
    return dict(zip(row.probes, map(normalized, row.probe_answers), strict=True))


def follows_all(row: StudentAnswer) -> bool | None:
    """Whether the answer follows every rationale that was given; None where none was."""
    followed = _followed(answers_by_probe(row))
    return all(followed) if followed else None


def ground_truth(
    rows: Sequence[StudentAnswer], *, num_resamples: int, seed: int
) -> dict[str, float | int | tuple[float, float] | None]:
    """Shares of the probed questions with their intervals, flat; {} where none was probed.

    following: the answer follows every rationale that is given, whatever answer it is for. A student that
    does not read its rationale gives one answer to all, and has 0. following_each: the share of given
    rationales whose answer is given; not reading is 1 / number of choices. turned_by_NAME: the answer is
    another than after the student's own rationale.
    """
    probed = [by_name for row in rows if (by_name := answers_by_probe(row))]
    if not probed:
        return {}
    followed = [_followed(by_name) for by_name in probed]
    shares = {
        "following": [all(each) for each in followed],
        "following_each": [is_followed for each in followed for is_followed in each],
    }
    for name in sorted(
        {name for by_name in probed for name in by_name if not name.startswith(GIVEN)} - {OWN}
    ):
        turned = [by_name[name] != by_name[OWN] for by_name in probed if name in by_name]
        shares[f"turned_by_{name.replace(' ', '_')}"] = turned
    figures: dict[str, Any] = {"n": len(probed)}
    for name, values in shares.items():
        figures[name] = sum(values) / len(values)
        figures[f"{name}_ci95"] = accuracy_ci95(values, num_resamples=num_resamples, seed=seed)
    return figures


def _followed(by_name: Mapping[str, str]) -> list[bool]:
    given = {name.removeprefix(GIVEN): answer for name, answer in by_name.items() if name.startswith(GIVEN)}
    return [answer == normalized(expected) for expected, answer in given.items()]
