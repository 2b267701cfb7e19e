"""What the teacher reads: demonstrations, then the question with an answer already given.

    Q: {question}
    A: The answer is {answer}. {rationale}

The prompt ends after "{answer}."; the rationale is its continuation up to the first line break.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import get_args

import yaml

from cotray.records import QAPair, Task, TeacherRequest
from cotray.seeds import digest


@dataclass(frozen=True)
class TeacherPrompt:
    """Both branches of one request; they start with the demonstrations all prompts of a task share."""

    shared: str
    grounded: str
    contrast: str


def render_request(request: TeacherRequest, *, num_demonstrations: int) -> TeacherPrompt:
    shared = demonstrations_text(request.task, num_demonstrations)
    stem = shared + _stem(request.task, request.question, request.choices)
    return TeacherPrompt(shared, f"{stem} {request.target_answer}.", f"{stem} {request.contrast_answer}.")


def render_choices(pair: QAPair, *, num_demonstrations: int) -> tuple[str, list[str]]:
    """The prompt up to the answer, and every choice as its continuation: to rank choices by likelihood."""
    stem = demonstrations_text(pair.task, num_demonstrations) + _stem(pair.task, pair.question, pair.choices)
    return stem, [f" {choice}." for choice in pair.choices]


def demonstrations_text(task: Task, num_demonstrations: int) -> str:
    blocks = [
        f"{_stem(task, d['question'], d['choices'])} {d['answer']}. {d['rationale'].strip()}\n\n"
        for d in demonstrations(task)[:num_demonstrations]
    ]
    return "".join(blocks)


def prompt_version(num_demonstrations: int) -> str:
    """Changes with anything in the prompts that is not the question."""
    probes = [QAPair("", task, "Q?", ("a", "b"), "a") for task in get_args(Task)]
    prompts = [render_choices(probe, num_demonstrations=num_demonstrations) for probe in probes]
    return f"{digest(0, *(text for stem, choices in prompts for text in (stem, *choices))):016x}"


@cache
def demonstrations(task: Task) -> list[dict]:
    """The project's own demonstrations of one task: question, choices, answer, rationale."""
    text = resources.files("cotray.prompts").joinpath(f"demonstrations/{task}.yaml").read_text("utf-8")
    return yaml.safe_load(text)


def question_text(task: Task, question: str, choices: Sequence[str]) -> str:
    """The question in one line, and its lettered choices below it."""
    question = " ".join(question.split())
    if task != "multiple_choice":
        return question
    lettered = "\n".join(f"({chr(97 + index)}) {choice}" for index, choice in enumerate(choices))
    return f"{question}\nAnswer Choices:\n{lettered}"


def _stem(task: Task, question: str, choices: Sequence[str]) -> str:
    subject = "statement" if task == "true_false" else "answer"
    return f"Q: {question_text(task, question, choices)}\nA: The {subject} is"
