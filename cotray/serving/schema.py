"""What the typed endpoints take and give; OpenAI's own shapes are in chat.py."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from cotray.records import FIXED_CHOICES, QAPair, Reply, StudentAnswer, Task, task_of

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=20_000)]
AsWritten = Annotated[str, StringConstraints(max_length=20_000)]
"""Perhaps empty, and with the spaces that it has."""
Choices = Annotated[
    list[Annotated[str, StringConstraints(min_length=1, max_length=2000)]], Field(max_length=1000)
]


class Described(BaseModel):
    """Texts of the fields become those of the OpenAPI schema."""

    model_config = ConfigDict(use_attribute_docstrings=True, protected_namespaces=())


class Strict(Described):
    model_config = ConfigDict(extra="forbid", strict=True)


class Question(Strict):
    """A question; only multiple_choice needs `choices`."""

    question: Text
    """Without its choices."""
    choices: Choices = []
    """Each as text, without a letter."""
    task: Task | None = None
    """Where it is missing, what the choices show: yes_no and the like, else multiple_choice; open without."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if len(set(self.choices)) != len(self.choices):
            raise ValueError("choices: each has to differ from the others")
        if self.task == "multiple_choice" and len(self.choices) < 2:
            raise ValueError("choices: multiple_choice needs two or more")
        if self.task in ("open", "number") and self.choices:
            raise ValueError(f"choices: a question of task {self.task} has none; leave them out")
        if (
            self.task in FIXED_CHOICES
            and self.choices
            and sorted(self.choices) != sorted(FIXED_CHOICES[self.task])
        ):
            raise ValueError(
                f"choices: {self.task} has {' and '.join(FIXED_CHOICES[self.task])}; leave them out"
            )
        if self.task is None and len(self.choices) == 1:
            raise ValueError("choices: one is no choice; give two or more, or none")
        return self

    def pair(self, id: str) -> QAPair:
        task = self.task or task_of(self.choices)
        choices = FIXED_CHOICES.get(task) or tuple(self.choices)
        return QAPair(id, task, self.question, choices, "", split="test")


class AnswerRequest(Question):
    model: str | None = None
    """The version that answers; without it one is drawn by the versions' shares."""
    rationale: AsWritten | None = None
    """Given: the student does not write one, but answers after this one (the counterfactual switch), or,
    where it is empty, without any."""


class AnswerResponse(Described):
    id: str
    """Of the request; also in the header `X-Request-Id` and in the log."""
    model: str
    """The version that answered."""
    rationale: str
    """What the student wrote, or the one that was given."""
    answer: str
    """One of the choices, or text for open questions."""
    wrote_answer: bool
    """Whether the student's own text named it; else it is the likeliest choice after its rationale."""
    choices: list[str]
    """In the order of `probabilities`."""
    probabilities: list[float]
    """Of each choice, after the rationale; they add up to 1."""

    @classmethod
    def of(cls, id: str, model: str, pair: QAPair, reply: Reply) -> AnswerResponse:
        return cls(
            id=id,
            model=model,
            rationale=reply.rationale,
            answer=reply.answer,
            wrote_answer=reply.wrote_answer,
            choices=list(pair.choices),
            probabilities=shares(reply.choice_logprobs),
        )


class GroundedRationale(Described):
    answer: str
    """The answer that it is for."""
    rationale: str
    """A rationale from which that answer follows in the world."""


class Example(Described):
    """As `/v1/answer` takes it, with a rationale to give to the student for every answer there is."""

    question: str
    """Without its choices."""
    task: Task
    """Its format."""
    choices: list[str]
    """Empty for open questions."""
    rationales: list[GroundedRationale]
    """One for each answer."""


class Examples(Described):
    examples: list[Example]
    """Empty where the students did not learn the made-up world (`data.path: world`)."""


class SimulateRequest(Question):
    model: str | None = None
    """The student version whose simulator is asked."""
    rationale: AsWritten
    """What the student wrote; may be empty."""
    answer: Text
    """What the student answered: what the simulator should predict."""


class SimulateResponse(Described):
    """What the simulator says from the question alone, from the rationale alone and from both."""

    id: str
    """Of the request."""
    sim_x: str
    """Predicted from the question."""
    sim_e: str
    """Predicted from the rationale."""
    sim_xe: str
    """Predicted from both."""
    leaking: bool
    """Whether the rationale alone gives the answer away."""


class LasRow(Question):
    id: str = ""
    """Of the row in the answer; the request's with a number where it is missing."""
    rationale: AsWritten | None = None
    """With `answer`: what a student elsewhere wrote."""
    answer: Text | None = None
    """With `rationale`: what a student elsewhere wrote. Without both, a student here is asked."""

    @model_validator(mode="after")
    def _has_both_or_neither(self) -> Self:
        if (self.rationale is None) != (self.answer is None):
            raise ValueError("give both rationale and answer, or neither")
        return self


class LasRequest(Strict):
    rows: Annotated[list[LasRow], Field(min_length=1)]
    """At most `serving.max_rows`."""
    model: str | None = None
    """The version that answers, and whose simulator is asked."""
    num_resamples: Annotated[int, Field(ge=100, le=100_000)] = 10_000
    """Of the bootstrap that the interval comes from."""
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 42
    """Of the bootstrap."""


class LasLine(Described):
    """One line of the NDJSON answer: `row` lines as they are done, `las` last."""

    type: Literal["row", "las", "error"]
    """An `error` ends the answer: what came before it is all there is."""
    done: int
    """Rows so far."""
    total: int
    """Rows asked for."""
    row: dict | None = None
    """The student's answer with the simulator's three predictions, and whether the rationale leaks."""
    las: dict | None = None
    """LAS with its parts and its interval."""
    error: dict | None = None
    """As in any other error."""


class Problem(Described):
    message: str
    """What is wrong, and where."""
    type: str
    """`invalid_request_error`, `authentication_error`, `rate_limit_error` or `server_error`."""
    param: str | None = None
    """The field that it is about, where it is about one."""
    code: str | None = None
    """A word for programs."""


class ErrorBody(Described):
    """The shape of OpenAI's errors."""

    error: Problem
    """The one problem."""


def shares(logprobs: tuple[float, ...]) -> list[float]:
    """softmax: probabilities among the choices."""
    if not logprobs:
        return []
    top = max(logprobs)
    weights = [math.exp(value - top) for value in logprobs]
    return [weight / sum(weights) for weight in weights]


def student_row(pair: QAPair, rationale: str, answer: str) -> StudentAnswer:
    return StudentAnswer.from_row(pair.to_row() | {"rationale": rationale, "student_answer": answer})
