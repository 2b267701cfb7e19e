"""What an answer of the data means: which choice it names, or which text or number it is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from cotray.config.data import AnswerIn, AnswerIs
from cotray.data.columns import UnusableRow, text_of
from cotray.records import BINARY_CHOICES, Task, normalized

TRUTHS = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}
LETTER = re.compile(r"\(?([a-z])[).:]?")
CALCULATION = re.compile(r"<<[^<>]*>>")
NONE_FITS = "no answer among the choices"


@dataclass(frozen=True)
class Choices:
    """The choices of one question as its row has them: in its order, with labels where it has any.

    `texts` are those of the row, of which two may be the same; an index counts these. `named` has each
    once, and is what the answer is one of.
    """

    task: Task
    texts: tuple[str, ...]
    labels: tuple[str, ...]
    named: dict[str, str]

    def by_text(self, value: Any) -> str | None:
        return self.named.get(_word(value))

    def by_index(self, value: Any, *, first: int = 0) -> str | None:
        """`first`: what the first choice is counted as. A list of zeros with a single 1 marks its choice."""
        if isinstance(value, list) and sorted(map(str, value)) == ["0"] * (len(value) - 1) + ["1"]:
            index = list(map(str, value)).index("1")
        elif (word := _word(value)).isdecimal() and len(word) <= 2:
            index = int(word) - first
        else:
            return None
        return self.named[normalized(self.texts[index])] if 0 <= index < len(self.texts) else None

    def by_label(self, value: Any) -> str | None:
        """A label of the data, or else a letter, as in "B", "b)" and "(B)"."""
        word = _word(value)
        if word in self.labels:
            return self.named[normalized(self.texts[self.labels.index(word)])]
        letter = LETTER.fullmatch(word)
        return self.by_index(str(ord(letter[1]) - ord("a"))) if letter and not self.labels else None

    def by_truth(self, value: Any) -> str | None:
        """Yes and true are the first choice of a question of that kind; SCOTT's data have 1 for them."""
        if self.task not in BINARY_CHOICES or _word(value) not in TRUTHS:
            return None
        yes, no = BINARY_CHOICES[self.task]
        return yes if TRUTHS[_word(value)] else no


def chosen(value: Any, choices: Choices, answer_is: AnswerIs | None) -> str:
    """The one choice that `value` means. UnusableRow where there is none, or more than one."""
    readings = {
        "text": choices.by_text,
        "label": choices.by_label,
        "index": choices.by_index,
        "number": lambda value: choices.by_index(value, first=1),
        "boolean": choices.by_truth,
    }
    if not isinstance(value, list | bool):
        text_of(value, "answer")
    if answer_is is None:
        return _only(value, choices)
    # A text that is no number and no label cannot be mistaken for one.
    meant = readings[answer_is](value)
    if meant is None and not (_word(value).isdecimal() and answer_is in ("index", "number")):
        meant = choices.by_text(value)
    if meant is None:
        raise UnusableRow(NONE_FITS)
    return meant


def _only(value: Any, choices: Choices) -> str:
    """What a value means by itself; two readings must not contradict each other."""
    if isinstance(value, str) and (meant := choices.by_text(value)):
        return meant
    if choices.labels and (meant := choices.by_label(value)):
        return meant
    readings = [choices.by_text(value), choices.by_truth(value)]
    if not isinstance(value, bool):
        readings += [choices.by_index(value), choices.by_label(value)]
    meanings = {meant for meant in readings if meant is not None}
    if not meanings:
        raise UnusableRow(NONE_FITS)
    if len(meanings) > 1:
        raise UnusableRow(
            "answer is both an index and a value; write it as the text of a choice, or set data.answer_is"
        )
    return meanings.pop()


def written(value: Any, answer_in: AnswerIn) -> tuple[str, str]:
    """(rationale, answer) out of an open answer's column; the rationale is "" where there is none."""
    if answer_in == "whole":
        return "", text_of(value, "answer")
    if not isinstance(value, str):
        raise UnusableRow("column 'answer' is not text")
    if answer_in == "hashes":
        rationale, mark, answer = CALCULATION.sub("", value).rpartition("####")
        if not mark:
            raise UnusableRow("no #### before the answer")
        return rationale, text_of(answer, "answer")
    return value, text_of(_boxed(value), "answer")


def _boxed(text: str) -> str:
    r"""What the last \boxed{} holds, with braces inside it."""
    start = text.rfind(r"\boxed{")
    if start < 0:
        raise UnusableRow(r"no \boxed{} around the answer")
    start += len(r"\boxed{")
    depth = 1
    for end in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if not depth:
            return text[start:end]
    raise UnusableRow(r"\boxed{ without its }")


def _word(value: Any) -> str:
    return normalized(str(value))
