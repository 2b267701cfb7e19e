"""What a report says of one method, and of one example question: plain records, for tables and pages."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from cotray.records import Rationale, Simulation
from cotray.report.comparison import Difference


@dataclass(frozen=True)
class MethodReport:
    """One method's row of the table, its curves and its counts."""

    method: str
    run_dir: str
    accuracy: dict[str, Any]
    oracle_accuracy: dict[str, Any]
    perturbed_accuracy: dict[str, Any]
    wrote_answer: dict[str, Any]
    las: dict[str, Any]
    history: list[dict[str, float]]
    simulator_history: list[dict[str, float]]
    counts: dict[str, Any]
    quality: dict[str, Any] | None = None
    """What `assess` found; None where it did not run."""
    selection: dict[str, Any] | None = None
    """What `assessing.rules` caught; None without rules."""
    conseq: dict[str, Any] | None = None
    """What the second phase of `train` learned and unlearned; None without `student.conseq`."""
    ground_truth: dict[str, Any] | None = None
    """What is really so: `n` questions, shares of them such as `following`, and intervals as
    `following_ci95`; None where the answers' manifest has none. cotray/scoring/probes.py"""

    writing: dict[str, Any] | None = None
    """How many rationales of the student are empty or repeat themselves; None where that was not counted.
    cotray/scoring/writing.py"""

    commonest_answers: dict[str, Any] | None = None
    """Of the data, the student and the simulator; None where an earlier version of cotray did not count them.
    cotray/scoring/constant_answers.py"""

    probing: dict[str, Any] | None = None
    """The figures of `probe`; None where it did not ask this student. cotray/probing/figures.py"""

    @property
    def num_questions(self) -> int:
        """Test questions: all of them are in LAS and in the accuracy."""
        return self.accuracy["n"]

    @property
    def accuracy_of_one_answer(self) -> float | None:
        """Of the commonest right answer, given to every test question, where all have the same choices."""
        found = self.commonest_answers
        return (
            found["gold"]["count"] / found["n"] if found and found["n"] and found["shares_choices"] else None
        )

    @property
    def faithfulness(self) -> float | None:
        """The share of questions in which the answer really follows the rationale."""
        return self.ground_truth.get("following") if self.ground_truth else None

    @property
    def num_probed(self) -> int:
        """Questions behind the ground truth."""
        return (self.ground_truth or {}).get("n", self.num_questions)

    def to_json(self) -> dict[str, Any]:
        """All fields, with what one looks for first beside them: nothing of it is rounded or left out."""
        return asdict(self) | {
            "n": self.num_questions,
            "ci95": self.las["ci95"],
            "ground_truth_faithfulness": self.faithfulness,
        }


@dataclass(frozen=True)
class MethodDifference:
    """`method`'s figures minus those of `against`, over the test questions that both have."""

    method: str
    against: str
    las: Difference
    accuracy: Difference


@dataclass(frozen=True)
class MethodExample:
    """One method's rationales and predictions for an example question."""

    method: str
    rationale: Rationale
    simulation: Simulation


@dataclass(frozen=True)
class ProbedExample:
    """A test question on which a student changed its answer: what it said, and after which change."""

    method: str
    measure: str
    question: str
    rationale: str
    answer: str
    other_question: str
    """"" where the question was not changed."""
    other_rationale: str
    other_answer: str


@dataclass(frozen=True)
class Example:
    """A test question with what every method made of it."""

    question: str
    choices: list[str]
    answer: str
    reference_rationale: str
    methods: list[MethodExample]
