"""What a model reads and writes that turns a text into question-answer pairs: rendering and parsing.

    Text: {text}
    Question: {question} Answer: {answer}

The prompt ends after "Question:". Demonstrations of the same form come first for a model that was not
trained for the task.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import NamedTuple

import yaml

from cotray.records import TrainExample
from cotray.seeds import digest

ANSWER_MARK = " Answer:"
MOST_DEMONSTRATIONS = 6


class QuestionAnswer(NamedTuple):
    question: str
    answer: str


def pair_prompt(text: str, *, num_demonstrations: int) -> str:
    """Everything before the pair."""
    blocks = [
        f"{_stem(d['text'])}{pair_target(QuestionAnswer(d['question'], d['answer']))}\n\n"
        for d in demonstrations()[:num_demonstrations]
    ]
    return "".join(blocks) + _stem(text)


def pair_target(pair: QuestionAnswer) -> str:
    """The pair as the continuation of its prompt."""
    return f" {pair.question}{ANSWER_MARK} {pair.answer}"


def pair_example(id_: str, text: str, pair: QuestionAnswer) -> TrainExample:
    """A pair to learn as a model without demonstrations writes it and is scored on it, end included."""
    source = pair_prompt(text, num_demonstrations=0)
    return TrainExample(id=id_, kind="factual", source=source, target=pair_target(pair))


def parse_pair(text: str) -> QuestionAnswer | None:
    """The pair in a continuation's first line; None unless that is one question and one answer."""
    line = next(iter(text.strip().splitlines()), "")
    parts = [" ".join(part.split()) for part in f" {line}".split(ANSWER_MARK)]
    if len(parts) != 2:
        return None
    pair = QuestionAnswer(parts[0], parts[1].rstrip("."))
    return pair if pair.question and pair.answer else None


def pair_prompt_version(num_demonstrations: int) -> str:
    """Changes with anything in the prompt that is not the text."""
    return f"{digest(0, pair_prompt('T', num_demonstrations=num_demonstrations)):016x}"


@cache
def demonstrations() -> Sequence[dict[str, str]]:
    """The project's own: text, question, answer; every answer is words of its text."""
    text = resources.files("cotray.prompts").joinpath("demonstrations/qa_pairs.yaml").read_text("utf-8")
    return yaml.safe_load(text)


def _stem(text: str) -> str:
    return f"Text: {' '.join(text.split())}\nQuestion:"
