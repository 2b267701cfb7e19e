"""The records that flow through cotray, one way: each is a flat frozen dataclass = one Arrow row.

QAPair -> TeacherRequest -> Rationale -> TrainExample -> weights -> StudentAnswer -> Simulation.
A record carries the earlier one's fields forward, so that no stage needs a join.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, cast

Task = Literal["yes_no", "true_false", "nli", "multiple_choice", "number", "open"]
Split = Literal["train", "dev", "test"]
Kind = Literal["factual", "counterfactual"]
ExampleKind = Literal["factual", "counterfactual", "rejected", "x", "e"]
"""Of what is learned. `rejected` is to become unlikely (ConSeq); a simulator also learns from the question
(`x`) and from the rationale (`e`) alone."""
FinishReason = Literal["stop", "length"]

BINARY_CHOICES: dict[str, tuple[str, str]] = {
    "yes_no": ("yes", "no"),
    "true_false": ("true", "false"),
}
FIXED_CHOICES: dict[str, tuple[str, ...]] = {
    **BINARY_CHOICES,
    "nli": ("entailment", "neutral", "contradiction"),
}
"""Of tasks whose questions all have the same choices, which are not shown with the question."""


NUMBER = re.compile(r"(?<![\w.])-?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)(?:/\d+)?")


def normalized(text: str) -> str:
    """The form in which two answers are the same answer."""
    return " ".join(text.casefold().split())


def same_answer(one: object, other: object) -> bool:
    """Texts by their normalized form; other values, such as numbers of classes, by equality."""
    if isinstance(one, str) and isinstance(other, str):
        return normalized(one) == normalized(other)
    return one == other


def task_of(choices: Sequence[str]) -> Task:
    """The task that choices show: one whose choices are these, else multiple choice; open without choices."""
    names = {normalized(choice) for choice in choices}
    for task, fixed in FIXED_CHOICES.items():
        if names == set(fixed):
            return cast(Task, task)
    return "multiple_choice" if choices else "open"


def number_in(text: str) -> str | None:
    """The first number of a text, plainly written: 1000.5 for "$1,000.50". None where there is none."""
    if not (found := NUMBER.search(text.replace("\u2212", "-"))):
        return None
    digits, slash, divisor = found[0].replace(",", "").partition("/")
    whole, point, fraction = digits.lstrip("-").partition(".")
    plain = f"{whole.lstrip('0') or '0'}{point}{fraction}"
    plain = plain.rstrip("0").rstrip(".") if point else plain
    sign = "-" if digits.startswith("-") and plain != "0" else ""
    return f"{sign}{plain}{slash}{divisor}"


@dataclass(frozen=True)
class Record:
    """Row conversion shared by all records; unknown columns of a row are ignored."""

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Self:
        values = {}
        for field in dataclasses.fields(cls):
            if field.name in row:
                value = row[field.name]
                is_sequence = hasattr(value, "__iter__") and not isinstance(value, str)
                values[field.name] = tuple(value) if is_sequence else value
        return cls(**values)

    def to_row(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


@dataclass(frozen=True)
class QAPair(Record):
    """A question with its gold answer; `choices` is empty for open questions and numbers."""

    id: str
    task: Task
    question: str
    choices: tuple[str, ...]
    answer: str
    split: Split = "train"
    reference_rationale: str = ""
    facts: tuple[str, ...] = ()

    @property
    def human_rationale(self) -> str:
        """What people wrote to explain the right answer; "" where the data have nothing."""
        return self.reference_rationale or " ".join(self.facts)


@dataclass(frozen=True)
class TeacherRequest(QAPair):
    """What the teacher is asked: explain `target_answer`, and not `contrast_answer`.

    factual: target = gold, contrast = the perturbed answer.
    counterfactual: target = a wrong answer, contrast = gold, or "" under perturbation `empty`.
    """

    kind: Kind = "factual"
    target_answer: str = ""
    contrast_answer: str = ""
    perturbation: str = "wrong"


@dataclass(frozen=True)
class Rationale(TeacherRequest):
    """The teacher's answer to one request; `error` is "" on success.

    `sample` counts the draws of one request, `attempts` how often it was tried, and `splits` how often the
    two branches lost lock-step in the engine and were brought together again. The evidence columns are per
    generated token and empty unless `teacher.record_scores` is on: `greedy_tokens` is what plain decoding
    would have taken; log-probabilities (natural logs, both branches) are of the token taken and of the
    greedy one.
    """

    rationale: str = ""
    method: str = ""
    sample: int = 0
    num_tokens: int = 0
    stop_reason: str = ""
    teacher: str = ""
    error: str = ""
    attempts: int = 1
    splits: int = 0
    tokens: tuple[str, ...] = ()
    greedy_tokens: tuple[str, ...] = ()
    grounded_logprobs: tuple[float, ...] = ()
    contrast_logprobs: tuple[float, ...] = ()
    greedy_grounded_logprobs: tuple[float, ...] = ()
    greedy_contrast_logprobs: tuple[float, ...] = ()


@dataclass(frozen=True)
class Assessment(Rationale):
    """A rationale with the scores of `assess`; what was not measured, or is undefined, is None or "".

    `num_words` to `states_answer` are quality.surface.Surface, `num_pairs` to `shuffled` quality.quals.Quals.
    `qags` is the mean token F1 over `num_questions`. The simulator's predictions are those of an untrained
    model, from x, from e and from both.
    """

    num_words: int | None = None
    copy_rate: float | None = None
    repetition: float | None = None
    states_answer: bool | None = None
    num_pairs: int | None = None
    grounded: float | None = None
    novel: float | None = None
    delta: float | None = None
    shuffled: float | None = None
    num_questions: int | None = None
    qags: float | None = None
    sim_x: str = ""
    sim_e: str = ""
    sim_xe: str = ""

    @property
    def sim_gain(self) -> int | None:
        """1 where the rationale brings the simulator to the answer it is for, -1 where it leads away from it,
        0 where it changes nothing; None where the simulator was not asked."""
        if not (self.sim_x or self.sim_e or self.sim_xe):
            return None
        target = normalized(self.target_answer)
        return (normalized(self.sim_xe) == target) - (normalized(self.sim_x) == target)


@dataclass(frozen=True)
class TrainExample(Record):
    """One sequence to learn. Only target characters from `supervise_from` to `supervise_to` have a loss.

    `source` is the encoder's input or the decoder-only prompt; `target` is what follows it. Without
    `supervise_to`, the loss goes on to the end-of-sequence token. `weight` multiplies its tokens' losses, and
    their number in the mean.
    """

    id: str
    kind: ExampleKind
    source: str
    target: str
    supervise_from: int = 0
    supervise_to: int | None = None
    weight: float = 1.0
    split: Split = dataclasses.field(default="train", repr=False)  # no part of what is learned


@dataclass(frozen=True)
class PassagePair(Record):
    """One question with one of its answers, each on one line; `id` says where they were read."""

    id: str
    passage: str
    question: str
    answer: str
    split: Split = "train"


@dataclass(frozen=True)
class StudentAnswer(QAPair):
    """The student's rationale and answer to one question (e and y of docs/explanation/method.md#las).

    `student_answer` is what it wrote if that names a choice (`wrote_answer`), else the choice it finds
    likeliest after its rationale. The interventions re-answer from another rationale: the teacher's for the
    gold answer (oracle), and the student's own with half its tokens replaced (perturbed). Where the data
    say how, test questions are also asked with exchanged questions and rationales: `probes` are the names of
    scoring.probes.Probe, `probe_answers` what the student answered to each.
    """

    kind: Kind = "factual"
    rationale: str = ""
    student_answer: str = ""
    wrote_answer: bool = False
    oracle_answer: str = ""
    perturbed_answer: str = ""
    method: str = ""
    probes: tuple[str, ...] = ()
    probe_answers: tuple[str, ...] = ()


@dataclass(frozen=True)
class ProbedAnswer(StudentAnswer):
    """What a student answers when its question or its rationale is changed, for one rationale of the teacher.

    Of a factual one the student's own rationale and answer are there, and all that is asked about them; of a
    counterfactual one the answer after that rationale alone. `probes`: names of probing.prober.Variation;
    `probe_rationales` were given or, with a cue, written by the student. `error` is "" on success, `attempts`
    how often the row was tried.
    """

    target_answer: str = ""
    probe_questions: tuple[str, ...] = ()
    probe_rationales: tuple[str, ...] = ()
    error: str = ""
    attempts: int = 1


@dataclass(frozen=True)
class TokenLogprob:
    """A token that a student wrote: its natural log-probability, and those of the likeliest tokens there."""

    text: str
    logprob: float
    likeliest: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Reply(Record):
    """One answer with what led to it, as a served student gives it.

    `text` is what the student wrote, and what it would have had to add where it named no answer: its end
    `added`; "" where its rationale was given. `choice_logprobs`: natural log p(choice | question, rationale);
    () for open questions. `finish_reason`: `length` where the request's own limit of tokens ended the text.
    `is_cut`: by that limit or one of its stop strings. `tokens`: of what the student wrote, where
    log-probabilities were asked for.
    """

    text: str
    rationale: str
    answer: str
    wrote_answer: bool
    choice_logprobs: tuple[float, ...] = ()
    num_prompt_tokens: int = 0
    num_tokens: int = 0
    added: str = ""
    finish_reason: FinishReason = "stop"
    is_cut: bool = False
    tokens: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Simulation(StudentAnswer):
    """What the simulator predicts the student answered, from x, from e and from both."""

    sim_x: str = ""
    sim_e: str = ""
    sim_xe: str = ""

    @property
    def leaks(self) -> bool:
        """Whether the rationale alone gives the student's answer away."""
        return same_answer(self.sim_e, self.student_answer)
