"""OpenAI's chat and text completions, as far as a student that answers questions has them.

The message is the question; "(A) rain (B) snow" in it, on one line or several, are its choices, or `cotray:
{"task": ..., "choices": [...]}` in the body names them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from cotray.records import Task
from cotray.serving.openai_parameters import MAX_ANSWERS, ChatParameters, TextParameters, refused
from cotray.serving.schema import Choices, Described, Question

# Of a line without space around it. No two neighbours here match the same character, so that a line which is
# no choice is told in linear time.
_CHOICE = re.compile(r"\(?([A-Za-z])[).]\s+(\S.*)")
# Within a line, where a letter with a full stop may end a sentence.
_MARK = re.compile(r"(?<!\S)\(?([A-Za-z])\)\s++(?=\S)")


class Extra(Described):
    """What no OpenAI client has a field for."""

    model_config = ConfigDict(extra="forbid")
    task: Task | None = None
    """Inferred from the choices where it is missing."""
    choices: Choices = Field(default_factory=list)
    """Given here, the text is not searched for choices."""


class Part(Described):
    type: str
    """`text`: nothing else is understood."""
    text: str | None = None
    """Parts are joined by line breaks."""


class Message(Described):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    """`user`: a student reads one question and nothing before it. Other messages have to be empty."""
    content: str | list[Part] | None = None
    """The question; `(A) rain (B) snow` in it, on one line or several, are its choices."""
    name: Any = None
    """Changes nothing."""

    def text(self, where: str) -> str:
        """Raises Refused where it is not all text."""
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        for place, part in enumerate(self.content):
            if part.type != "text" or part.text is None:
                wants = "a student reads text alone: give a part of type text, with its text"
                raise refused(f"{where}.content.{place}", wants)
        return "\n".join(part.text or "" for part in self.content)


class ChatRequest(ChatParameters):
    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    """One question of the user. What a student would not read is refused: instructions and earlier turns."""
    cotray: Extra = Extra()
    """The task and the choices, where the text does not say them."""

    def texts(self) -> list[str]:
        """The question as it was written; raises Refused where there is not one question and nothing else."""
        written = [message.text(f"messages.{place}") for place, message in enumerate(self.messages)]
        filled = [place for place, text in enumerate(written) if text.strip()]
        for place in filled:
            message = self.messages[place]
            if message.role != "user" or place != filled[-1]:
                what = (
                    "an earlier turn" if message.role == "user" else f"a message of the role {message.role}"
                )
                wants = f"a student reads one question alone, and not {what}; give one message with role user"
                raise refused(f"messages.{place}", wants)
        asked = filled or [place for place, message in enumerate(self.messages) if message.role == "user"]
        if not asked:
            raise refused(
                "messages", "no question; give a message with role user and a text", code=NO_QUESTION
            )
        return [written[asked[-1]]]

    def questions(self, texts: Sequence[str]) -> list[Question]:
        return [_question_of(text, self.cotray, "messages") for text in texts]


class CompletionRequest(TextParameters):
    prompt: str | Annotated[list[str], Field(min_length=1, max_length=MAX_ANSWERS)]
    """The question, or several, each with `n` answers; `(A) rain (B) snow` in it, on one line or several, are
    its choices."""
    cotray: Extra = Extra()
    """The task and the choices of every prompt, where its text does not say them."""

    def texts(self) -> list[str]:
        """The questions as they were written."""
        texts = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        if len(texts) * (self.n or 1) > MAX_ANSWERS:
            raise refused("n", f"n times the prompts is {MAX_ANSWERS} at most; ask for fewer at once")
        return texts

    def questions(self, texts: Sequence[str]) -> list[Question]:
        return [_question_of(text, self.cotray, "prompt") for text in texts]


NO_QUESTION = "invalid_question"


def _question_of(text: str, extra: Extra, field: str) -> Question:
    try:
        return question_of(text, extra)
    except ValidationError as error:
        first = error.errors()[0]
        name = "cotray" if extra.choices or extra.task else field
        if first["loc"][:1] == ("question",):
            name = field
        raise refused(name, first["msg"].removeprefix("Value error, "), code=NO_QUESTION) from None


def question_of(text: str, extra: Extra) -> Question:
    """The question and its choices; raises ValidationError, a ValueError, where they make no question."""
    is_given = bool(extra.choices or extra.task)
    question, choices = (text, []) if is_given else _lines_apart(text) or _marks_apart(text) or (text, [])
    return Question(question=question, choices=extra.choices or choices, task=extra.task)


def _lines_apart(text: str) -> tuple[str, list[str]] | None:
    """The question and its choices, where each of these has a line of its own; None for less than two."""
    lines, choices = list[str](), list[str]()
    for line in text.splitlines():
        found = _CHOICE.fullmatch(line.strip())
        if found and found[1].upper() == chr(65 + len(choices)):
            choices.append(found[2])
        else:
            lines.append(line)
    return ("\n".join(lines), choices) if len(choices) > 1 else None


def _marks_apart(text: str) -> tuple[str, list[str]] | None:
    """As `_lines_apart`, where several choices stand on one line; each of them ends with its line."""
    rest, choices = list[str](), list[str]()
    for line in text.splitlines():
        begin, is_choice = 0, False
        for mark in _MARK.finditer(line):
            if mark[1].upper() == chr(65 + len(choices) + is_choice):
                (choices if is_choice else rest).append(line[begin : mark.start()].strip())
                begin, is_choice = mark.end(), True
        (choices if is_choice else rest).append(line[begin:].strip() if is_choice else line)
    return ("\n".join(filter(None, rest)), choices) if len(choices) > 1 else None
