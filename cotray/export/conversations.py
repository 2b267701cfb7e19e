"""Rationales as what trainers of language models learn to write: chats, completions, instructions.

The user asks, the assistant explains and answers; how a chat becomes tokens is up to the chat template of the
model that is trained. Counterfactual rationales explain wrong answers: only completions, which say exactly
what is learned, have them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cotray.export.dataset import Line, file_of
from cotray.export.finished_run import FinishedRun
from cotray.prompts.student import student_example, target_prefix
from cotray.records import QAPair, Rationale


def lettered_choices(pair: QAPair) -> str:
    """A line each, as chat clients write them; "" where the question shows none."""
    if pair.task != "multiple_choice":
        return ""
    return "\n".join(f"({chr(65 + index)}) {choice}" for index, choice in enumerate(pair.choices))


def asked(pair: QAPair) -> str:
    """The question with its choices, without the tag, which belongs to cotray's students alone."""
    return f"{pair.question.strip()}\n{lettered_choices(pair)}".strip()


def said(rationale: str, answer: str) -> str:
    """As students write it."""
    return f"{target_prefix(rationale, tag='', is_encoder_decoder=False)} {answer}"


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def chat(run: FinishedRun) -> Iterator[Line]:
    """`messages`: a question of the user, and what the assistant is to say."""
    for row in factual(run):
        turn = [message("user", asked(row)), message("assistant", said(row.rationale, row.target_answer))]
        yield file_of(row.split), {"id": row.id, "messages": turn}


def alpaca(run: FinishedRun) -> Iterator[Line]:
    """`instruction`, `input` and `output`, as the data of Alpaca have them."""
    for row in factual(run):
        columns = {
            "instruction": row.question.strip(),
            "input": lettered_choices(row),
            "output": said(row.rationale, row.target_answer),
        }
        yield file_of(row.split), {"id": row.id, **columns}


def completion(run: FinishedRun) -> Iterator[Line]:
    """`prompt` and `completion`, with the tags of training: a loss on the completion and the end of sequence
    is the loss of cotray's own students. Of a counterfactual example the rationale is part of the prompt.
    """
    training = run.config.student.training
    seed = training.seed_or(run.config.seed)
    for row in run.rationales():
        if row.kind == "counterfactual" and not run.config.counterfactual_weight:
            continue
        example = student_example(row, tags=training.tags, seed=seed, is_encoder_decoder=False)
        cut = example.supervise_from
        columns: dict[str, Any] = {
            "prompt": example.source + example.target[:cut],
            "completion": example.target[cut:],
        }
        yield file_of(row.split), {"id": row.id, "kind": row.kind, **columns}


def factual(run: FinishedRun) -> Iterator[Rationale]:
    return (row for row in run.rationales() if row.kind == "factual")
