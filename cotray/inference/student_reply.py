"""A student's text read as an answer: the same for every engine that wrote it."""

from __future__ import annotations

from collections.abc import Sequence

from cotray.config import ScoringConfig
from cotray.errors import TooLong
from cotray.inference.likelihood import likeliest
from cotray.prompts.student import ANSWER_PHRASE
from cotray.records import QAPair, Reply, normalized

MAX_ANSWER_TOKENS = 16
"""Of a free answer that is written after a forced rationale."""


def check_length(
    tokenizer, source: str, rationale: str | None, config: ScoringConfig, longest: int | None
) -> None:
    """Raises TooLong where the prompt, what is written and an answer are more than `longest` tokens."""
    written = config.max_new_tokens if rationale is None else len(tokenizer(rationale).input_ids)
    num_prompt_tokens = len(tokenizer(source).input_ids)
    if longest is not None and num_prompt_tokens + written + MAX_ANSWER_TOKENS > longest:
        raise TooLong(f"the question has {num_prompt_tokens} tokens; the student reads {longest} in all")


def make_reply(
    pair: QAPair,
    text: str | None,
    *,
    rationale: str,
    answer: str | None,
    forced: str,
    logprobs: Sequence[float],
    num_prompt_tokens: int,
    num_tokens: int,
) -> Reply:
    """`text`: what the student wrote, None where its rationale was given; `answer`: what it named there.

    Without an answer of its own it is the likeliest choice, or `forced`, what it writes when asked again.
    """
    said = answer if answer is not None else likeliest(pair.choices, logprobs) if logprobs else forced
    shown = (text or "").strip()
    if text is not None and answer is None:
        shown = f"{shown}{ANSWER_PHRASE} {said}".strip()
    return Reply(shown, rationale, said, answer is not None, tuple(logprobs), num_prompt_tokens, num_tokens)


class Pieces:
    """A growing text in pieces, without the space around it and never with half a character."""

    def __init__(self) -> None:
        self.shown = ""

    def upto(self, text: str) -> str:
        """What is new in `text`; "" where it cannot be shown yet."""
        return "" if text.strip().endswith("\ufffd") else self.rest(text)

    def rest(self, text: str) -> str:
        """What is new in the whole text."""
        text = text.strip()
        if not text.startswith(self.shown):
            return ""
        piece, self.shown = text[len(self.shown) :], text
        return piece


def match_choice(answer: str, choices: Sequence[str]) -> str | None:
    """The choice that equals `answer` but for case and spacing; open questions take any non-empty answer."""
    if not choices:
        return answer or None
    said = _plain(answer)
    return next((choice for choice in choices if _plain(choice) == said), None)


def _plain(text: str) -> str:
    """As answers are compared, and without the full stop that students like to add."""
    return normalized(text).rstrip(".")


def first_line(text: str) -> str:
    """A free answer: the text's first line without its full stop."""
    return text.strip().split("\n")[0].rstrip(".")
