"""OpenAI's chat and text completions, as far as a student that answers questions has them.

The last user message is the question; lines such as "(A) rain" in it are its choices, or `cotray:
{"task": ..., "choices": [...]}` in the body names them. Decoding is greedy: sampling parameters are accepted,
as every client sends some, and change nothing.
"""

from __future__ import annotations

import json
import re
import time
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from cotray.records import QAPair, Reply, Task
from cotray.serving.schema import Choices, Described, Question

# Of a line without space around it. No two neighbours here match the same character, so that a line which is
# no choice is told in linear time.
_CHOICE = re.compile(r"\(?([A-Za-z])[).]\s+(\S.*)")


class Extra(Described):
    """What no OpenAI client has a field for."""

    model_config = ConfigDict(extra="forbid")
    task: Task | None = None
    """Inferred from the choices where it is missing."""
    choices: Choices = Field(default_factory=list)
    """Given here, lines of the message are not read as choices."""


class Part(Described):
    type: Literal["text"]
    """Nothing else is understood."""
    text: str
    """Parts are joined by line breaks."""


class Message(Described):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    """Only the last message of the user is read."""
    content: str | list[Part] | None = None
    """The question; lines such as `(A) rain` are its choices."""


class StreamOptions(Described):
    include_usage: bool | None = False
    """A last chunk with the number of tokens."""


class _Completion(Described):
    model_config = ConfigDict(extra="allow")
    model: str
    """One of /v1/models."""
    stream: bool | None = False
    """As server-sent events."""
    stream_options: StreamOptions | None = None
    """Of the stream."""
    n: Annotated[int, Field(ge=1, le=1)] | None = 1
    """One answer per request."""
    cotray: Extra = Extra()
    """The task and the choices, where the text does not say them."""


class ChatRequest(_Completion):
    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    """The conversation."""

    def text(self) -> str:
        """The question as it was written; raises ValueError where no message is of the user."""
        asked = [message for message in self.messages if message.role == "user"]
        if not asked:
            raise ValueError("no message has the role user")
        content = asked[-1].content
        return content if isinstance(content, str) else "\n".join(part.text for part in content or [])


class CompletionRequest(_Completion):
    prompt: str | Annotated[list[str], Field(min_length=1, max_length=1)]
    """The question; lines such as `(A) rain` are its choices."""

    def text(self) -> str:
        return self.prompt if isinstance(self.prompt, str) else self.prompt[0]


def question_of(text: str, extra: Extra) -> Question:
    """The question and its choices; raises ValueError where they make no question."""
    lines, choices = [], []
    for line in text.splitlines():
        found = None if extra.choices or extra.task else _CHOICE.fullmatch(line.strip())
        if found and found[1].upper() == chr(65 + len(choices)):
            choices.append(found[2])
        else:
            lines.append(line)
    if len(choices) < 2:
        lines, choices = [text], []
    try:
        return Question(question="\n".join(lines), choices=extra.choices or choices, task=extra.task)
    except ValidationError as error:
        raise ValueError("; ".join(problem["msg"] for problem in error.errors())) from None


class Answered:
    """The response to one request, whole or in chunks."""

    def __init__(self, id: str, model: str, pair: QAPair, *, is_chat: bool) -> None:
        self.pair, self.is_chat = pair, is_chat
        self.head = {"id": f"{'chatcmpl' if is_chat else 'cmpl'}-{id}", "created": int(time.time())}
        self.head |= {"model": model, "system_fingerprint": "cotray"}

    def whole(self, reply: Reply) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop", "logprobs": None}
        if self.is_chat:
            message = {"role": "assistant", "content": reply.text, "refusal": None}
            choice["message"] = message | {"cotray": self.apart(reply)}
        else:
            choice |= {"text": reply.text, "cotray": self.apart(reply)}
        kind = "chat.completion" if self.is_chat else "text_completion"
        return self.head | {"object": kind, "choices": [choice], "usage": usage(reply)}

    def first(self) -> str:
        return self._chunk({"role": "assistant", "content": ""}) if self.is_chat else self._chunk({}, "")

    def piece(self, text: str) -> str:
        return self._chunk({"content": text}, text)

    def last(self, reply: Reply, *, with_usage: bool) -> str:
        end = self._chunk({"cotray": self.apart(reply)} if self.is_chat else {}, "", finish="stop")
        if with_usage:
            end += event(self._head_of_chunk() | {"choices": [], "usage": usage(reply)})
        return end + "data: [DONE]\n\n"

    def apart(self, reply: Reply) -> dict[str, Any]:
        """`choices[].message.cotray`: rationale and answer apart from each other."""
        return {
            "rationale": reply.rationale,
            "answer": reply.answer,
            "choices": list(self.pair.choices),
            "answer_logprobs": list(reply.choice_logprobs),
        }

    def _chunk(self, delta: dict[str, Any], text: str = "", *, finish: str | None = None) -> str:
        choice: dict[str, Any] = {"index": 0, "finish_reason": finish, "logprobs": None}
        choice |= {"delta": delta} if self.is_chat else {"text": text}
        return event(self._head_of_chunk() | {"choices": [choice]})

    def _head_of_chunk(self) -> dict[str, Any]:
        return self.head | {"object": "chat.completion.chunk" if self.is_chat else "text_completion"}


def event(data: dict[str, Any]) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(data)}\n\n"


def usage(reply: Reply) -> dict[str, int]:
    return {
        "prompt_tokens": reply.num_prompt_tokens,
        "completion_tokens": reply.num_tokens,
        "total_tokens": reply.num_prompt_tokens + reply.num_tokens,
    }
