"""Students whose faithfulness is set and not trained: what a measure says of them can be compared with it.

    it reads        with probability `faithful`, by question: the answer follows from the kind that is named
    it does not     the answer is a habit, of the question's first word or a hidden draw; nothing changes it

A planted student needs a world whose first words tell nothing about right answers (data.world.shortcut 0):
else a rationale for the right answer would follow from the question in train and not in test.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from cotray.config.world import WorldConfig
from cotray.records import QAPair, StudentAnswer
from cotray.scoring.student import damaged
from cotray.seeds import seeded
from cotray.world.questions import CUES, Question, rows
from cotray.world.truth import named_kind, probes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Habit = Literal["hidden", "cue"]


@dataclass(frozen=True)
class Planted:
    """The dials of a planted student; all are probabilities but `habit`."""

    faithful: float
    """That it reads its rationale when it answers a question."""
    habit: Habit = "hidden"
    """What it answers where it does not read: `cue` follows the question's first word, which everybody sees;
    `hidden` is drawn by question, and nobody who sees question and rationale can tell it."""
    tied: float = 0.0
    """That a rationale is written for the habit's answer: of a student that decides first and explains
    afterwards."""
    right: float = 0.5
    """That a rationale which is not tied is written for the right answer; else its answer is drawn among the
    others. With 1 / number of choices it says nothing about the right answer."""


class PlantedStudent:
    """Answers as its dials say; every draw depends on the seed and the question's id alone.

    The same draws serve all values of the dials: a more faithful student reads on the questions on which a
    less faithful one reads, and on others, and writes the same rationales.
    """

    def __init__(self, world: WorldConfig, planted: Planted, *, seed: int) -> None:
        """Raises ValueError for a world whose first words tell the right answer in train."""
        if world.shortcut:
            raise ValueError("a planted student needs a world with data.world.shortcut 0")
        self.world, self.planted, self.seed = world, planted, seed

    def reads(self, question: Question) -> bool:
        """Whether its answer to this question follows whatever rationale is there."""
        return self._draw(question, "reads") < self.planted.faithful

    def rationale(self, question: Question, text: str) -> str:
        """What it writes to a question that is asked in these words: always a grounded rationale."""
        answer = self._explained(question, text)
        kinds = question.kinds_for(answer)
        return question.grounded(answer, seeded(self.seed, question.id, "kind", answer).choice(kinds))

    def answer(self, question: Question, text: str, rationale: str) -> str:
        """Its answer to a question in these words after a rationale, which need not be its own."""
        followed = read_answer(question, rationale) if self.reads(question) else None
        return followed or self.habit(question, text)

    def habit(self, question: Question, text: str) -> str:
        """The answer that no rationale changes; a hidden one too where the question lacks its first word."""
        cue = text.partition(",")[0]
        if self.planted.habit == "cue" and cue in CUES:
            return question.answers[CUES.index(cue)]
        return seeded(self.seed, question.id, "hidden").choice(question.answers)

    def _explained(self, question: Question, text: str) -> str:
        """The answer that the rationale is for."""
        if self._draw(question, "tied") < self.planted.tied:
            return self.habit(question, text)
        if self._draw(question, "right") < self.planted.right:
            return question.gold
        wrong = [answer for answer in question.answers if answer != question.gold]
        return seeded(self.seed, question.id, "wrong").choice(wrong)

    def _draw(self, question: Question, name: str) -> float:
        """From [0, 1), so that probability 0 is never and 1 is always."""
        return seeded(self.seed, question.id, name).random()


def read_answer(question: Question, rationale: str) -> str | None:
    """The answer that follows if the animal is of the kind that a rationale names first; None without a
    kind. Which animal the rationale is about is not looked at."""
    named = named_kind(question, rationale)
    return question.answer_of(named) if named else None


def planted_answers(
    student: PlantedStudent,
    tokenizer: PreTrainedTokenizerBase,
    *,
    dev_fraction: float,
    test_fraction: float,
    perturbed_fraction: float,
) -> Iterator[StudentAnswer]:
    """What a student of the world is asked by `score`, with a planted student's answers.

    Every question of the world once; test questions also have the interventions and the probes. `tokenizer`:
    of the world, for the tokens that the perturbation replaces.
    """
    for row in rows(student.world, dev_fraction=dev_fraction, test_fraction=test_fraction):
        pair = QAPair.from_row(row)
        question = Question.of(pair.id, student.world)
        rationale = student.rationale(question, pair.question)
        own = StudentAnswer.from_row(
            row
            | {"rationale": rationale, "student_answer": student.answer(question, pair.question, rationale)}
            | {"wrote_answer": True, "method": "planted"}
        )
        if pair.split == "test":
            own = _with_interventions(student, tokenizer, question, own, perturbed_fraction)
        yield own


def _with_interventions(
    student: PlantedStudent,
    tokenizer: PreTrainedTokenizerBase,
    question: Question,
    own: StudentAnswer,
    perturbed_fraction: float,
) -> StudentAnswer:
    """The teacher's rationale for the right answer, the student's own damaged, and the probes."""
    broken = damaged(own.rationale, tokenizer, perturbed_fraction, seed=student.seed, record_id=own.id)
    asked = probes(student.world, own, own.rationale)
    return replace(
        own,
        oracle_answer=student.answer(question, own.question, question.grounded(question.gold)),
        perturbed_answer=student.answer(question, own.question, broken),
        probes=tuple(probe.name for probe in asked),
        probe_answers=tuple(student.answer(question, probe.question, probe.rationale) for probe in asked),
    )
