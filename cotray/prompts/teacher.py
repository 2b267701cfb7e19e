"""What the teacher reads: demonstrations, then the question with an answer already given.

    Q: {question}
    A: The answer is {answer}. {rationale}

The prompt ends after "{answer}."; the rationale is its continuation up to the first line break. The same in a
model's own chat template: teacher_prompts.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import get_args

import yaml

from cotray.records import QAPair, Task, TeacherRequest
from cotray.seeds import digest

SUBJECTS = {"true_false": "statement", "nli": "relation"}
"""What an answer is said of, where it is not an answer."""


Demonstrations = Mapping[Task, Sequence[dict]]
"""Question, choices, answer and rationale of worked examples, by task."""


@dataclass(frozen=True)
class TeacherPrompt:
    """Both branches of one request; they start with the demonstrations all prompts of a task share."""

    shared: str
    grounded: str
    contrast: str


def render_request(
    request: TeacherRequest, *, num_demonstrations: int, begin: str = "", own: Demonstrations | None = None
) -> TeacherPrompt:
    """`begin`: what every prompt begins with; `own`: demonstrations in place of those that come along."""
    shared = begin + demonstrations_text(request.task, num_demonstrations, own)
    stem = shared + _stem(request.task, request.question, request.choices)
    return TeacherPrompt(shared, f"{stem} {request.target_answer}.", f"{stem} {request.contrast_answer}.")


def render_choices(
    pair: QAPair, *, num_demonstrations: int, begin: str = "", own: Demonstrations | None = None
) -> tuple[str, list[str]]:
    """The prompt up to the answer, and every choice as its continuation: to rank choices by likelihood."""
    shared = begin + demonstrations_text(pair.task, num_demonstrations, own)
    return shared + _stem(pair.task, pair.question, pair.choices), [f" {choice}." for choice in pair.choices]


def demonstrations_text(task: Task, num_demonstrations: int, own: Demonstrations | None = None) -> str:
    blocks = [
        f"{_stem(task, d['question'], d['choices'])} {d['answer']}. {d['rationale'].strip()}\n\n"
        for d in demonstrations(task, own)[:num_demonstrations]
    ]
    return "".join(blocks)


def prompt_version(num_demonstrations: int, own: Demonstrations | None = None) -> str:
    """Changes with anything in the prompts that is not the question."""
    probes = [QAPair("", task, "Q?", ("a", "b"), "a") for task in get_args(Task)]
    prompts = [render_choices(probe, num_demonstrations=num_demonstrations, own=own) for probe in probes]
    return f"{digest(0, *(text for stem, choices in prompts for text in (stem, *choices))):016x}"


def demonstrations(task: Task, own: Demonstrations | None = None) -> Sequence[dict]:
    """Of one task: question, choices, answer, rationale. Those of `own`, if it has any, go before the
    project's."""
    return (own or {}).get(task) or _shipped(task)


@cache
def _shipped(task: Task) -> list[dict]:
    text = resources.files("cotray.prompts").joinpath(f"demonstrations/{task}.yaml").read_text("utf-8")
    return yaml.safe_load(text)


def question_text(task: Task, question: str, choices: Sequence[str]) -> str:
    """The question in one line, and its lettered choices below it."""
    question = " ".join(question.split())
    if task != "multiple_choice":
        return question
    lettered = "\n".join(f"({chr(97 + index)}) {choice}" for index, choice in enumerate(choices))
    return f"{question}\nAnswer Choices:\n{lettered}"


def answer_phrase(task: Task) -> str:
    """What stands before a given answer."""
    return f"The {SUBJECTS.get(task, 'answer')} is"


def _stem(task: Task, question: str, choices: Sequence[str]) -> str:
    return f"Q: {question_text(task, question, choices)}\nA: {answer_phrase(task)}"
