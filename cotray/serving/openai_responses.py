"""What OpenAI's clients are answered: one answer or several, whole or in chunks."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from cotray.records import QAPair, Reply, TokenLogprob


class Completion:
    """The response to one request."""

    def __init__(
        self,
        id: str,
        model: str,
        pairs: Sequence[QAPair],
        *,
        is_chat: bool,
        num_each: int,
        with_logprobs: bool,
        with_usage: bool,
    ) -> None:
        """`pairs`: the question of every answer, in their order; those to the same one, `num_each`, together.

        `with_usage`: of a stream, which otherwise does not tell it.
        """
        self.pairs, self.is_chat, self.num_each = pairs, is_chat, num_each
        self.with_logprobs, self.with_usage = with_logprobs, with_usage
        self.head = {"id": f"{'chatcmpl' if is_chat else 'cmpl'}-{id}", "created": int(time.time())}
        self.head |= {"model": model, "system_fingerprint": "cotray"}

    def whole(self, replies: Sequence[Reply]) -> dict[str, Any]:
        kind = "chat.completion" if self.is_chat else "text_completion"
        choices = [self._choice(index, reply) for index, reply in enumerate(replies)]
        return self.head | {"object": kind, "choices": choices, "usage": usage(replies, self.num_each)}

    def first(self, index: int) -> str:
        return self._chunk(index, {"role": "assistant", "content": ""})

    def piece(self, index: int, text: str) -> str:
        return self._chunk(index, {"content": text}, text)

    def last(self, index: int, reply: Reply) -> str:
        """The end of one answer, with all that is known only then."""
        apart = {"cotray": self.apart(index, reply)}
        others = {"finish_reason": reply.finish_reason, "logprobs": self._logprobs(reply)}
        return self._chunk(index, apart, others=others | ({} if self.is_chat else apart))

    def end(self, replies: Sequence[Reply]) -> str:
        """Of the stream."""
        counted = self._head_of_chunk() | {"choices": [], "usage": usage(replies, self.num_each)}
        return (event(counted) if self.with_usage else "") + "data: [DONE]\n\n"

    def apart(self, index: int, reply: Reply) -> dict[str, Any]:
        """`choices[].message.cotray`: rationale and answer apart, and what the student did not write."""
        return {
            "rationale": reply.rationale,
            "answer": reply.answer,
            "wrote_answer": reply.wrote_answer,
            "added": reply.added,
            "choices": list(self.pairs[index].choices),
            "answer_logprobs": list(reply.choice_logprobs),
        }

    def _choice(self, index: int, reply: Reply) -> dict[str, Any]:
        choice = {"index": index, "finish_reason": reply.finish_reason, "logprobs": self._logprobs(reply)}
        apart = {"cotray": self.apart(index, reply)}
        if not self.is_chat:
            return choice | {"text": reply.text} | apart
        message = {"role": "assistant", "content": reply.text, "refusal": None}
        return choice | {"message": message | apart}

    def _logprobs(self, reply: Reply) -> dict[str, Any] | None:
        if not self.with_logprobs:
            return None
        return chat_logprobs(reply.tokens) if self.is_chat else text_logprobs(reply.tokens)

    def _chunk(
        self, index: int, delta: dict[str, Any], text: str = "", *, others: dict[str, Any] | None = None
    ) -> str:
        choice: dict[str, Any] = {"index": index, "finish_reason": None, "logprobs": None}
        choice |= {"delta": delta} if self.is_chat else {"text": text}
        return event(self._head_of_chunk() | {"choices": [choice | (others or {})]})

    def _head_of_chunk(self) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self.is_chat else "text_completion"
        return self.head | {"object": kind} | ({"usage": None} if self.with_usage else {})


def chat_logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    def entry(text: str, logprob: float) -> dict[str, Any]:
        # A part of a character has bytes that its text does not tell.
        return {
            "token": text,
            "logprob": logprob,
            "bytes": None if "\ufffd" in text else list(text.encode()),
        }

    content = [
        entry(token.text, token.logprob)
        | {"top_logprobs": [entry(text, logprob) for text, logprob in token.likeliest]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def text_logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    ends = [0, *accumulate(len(token.text) for token in tokens)]
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [dict(token.likeliest) for token in tokens],
        "text_offset": ends[:-1],
    }


def event(data: dict[str, Any]) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(data)}\n\n"


def usage(replies: Sequence[Reply], num_each: int) -> dict[str, int]:
    """Every question is counted once, whatever the number of its answers."""
    num_read = sum(reply.num_prompt_tokens for reply in replies[::num_each])
    num_written = sum(reply.num_tokens for reply in replies)
    return {
        "prompt_tokens": num_read,
        "completion_tokens": num_written,
        "total_tokens": num_read + num_written,
    }
