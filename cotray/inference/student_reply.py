"""A student's text read as an answer: the same for every engine that wrote it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cotray.config import ScoringConfig
from cotray.errors import TooLong
from cotray.inference.decoding import GREEDY, Decoding, Step
from cotray.inference.likelihood import likeliest
from cotray.inference.token_choice import stops
from cotray.prompts.student import ANSWER_PHRASE
from cotray.records import FinishReason, QAPair, Reply, TokenLogprob, normalized, number_in

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


@dataclass(frozen=True)
class Written:
    """What a student wrote."""

    text: str
    num_tokens: int
    finish_reason: FinishReason
    is_cut: bool
    """Whether the request's own `max_tokens` or `stop` ended it."""
    tokens: tuple[TokenLogprob, ...] = ()


def read_tokens(
    tokenizer: Any, ids: Sequence[int], decoding: Decoding, *, limit: int, steps: Sequence[Step] = ()
) -> Written:
    """The text of a student that may write `limit` tokens; what stands in `ids` after its end is left out."""
    ids = list(ids[: decoding.most_tokens(limit)])
    if decoding.stop:
        ends = (n for n in range(1, len(ids)) if stops(tokenizer, decoding, ids[:n]))
        ids = ids[: next(ends, len(ids))]
    whole = str(tokenizer.decode(ids, skip_special_tokens=True))
    stopped = decoding.before_stop(whole)
    is_complete = stopped is not None or ids[-1:] == [tokenizer.eos_token_id]
    # At the student's own limit its answer is still found, and the text completed.
    is_full = not is_complete and len(ids) == decoding.most_tokens(limit) < limit
    text = whole if stopped is None else stopped
    return Written(
        text,
        len(ids),
        "length" if is_full else "stop",
        is_cut=stopped is not None or is_full,
        tokens=_token_logprobs(tokenizer, ids, steps, num_chars=len(text)),
    )


def _token_logprobs(
    tokenizer: Any, ids: list[int], steps: Sequence[Step], *, num_chars: int
) -> tuple[TokenLogprob, ...]:
    """Of the tokens that the first `num_chars` characters of the text come from.

    A character in several tokens is the text of the last of them, and the others have none.
    """
    if ids[-1:] == [tokenizer.eos_token_id]:
        ids = ids[:-1]
    tokens, shown = list[TokenLogprob](), ""
    for place, (id, step) in enumerate(zip(ids, steps, strict=False), 1):
        if len(shown) >= num_chars:
            break
        whole = str(tokenizer.decode(ids[:place], skip_special_tokens=True))
        whole = whole if place == len(ids) else whole.rstrip("\ufffd")
        text, shown = whole[len(shown) :], whole if len(whole) > len(shown) else shown
        before = ids[max(0, place - 5) : place - 1]
        others = tuple(
            (text if other == id else _text_after(tokenizer, before, other), value)
            for other, value in step.likeliest
        )
        tokens.append(TokenLogprob(text, step.logprob, others))
    return tuple(tokens)


def _text_after(tokenizer: Any, before: list[int], id: int) -> str:
    """What a token would add to the text: alone, some tokenizers leave out the space in front of it."""
    shown, whole = str(tokenizer.decode(before)), str(tokenizer.decode([*before, id]))
    # A token may make half a character whole.
    return whole[len(shown if whole.startswith(shown) else shown.rstrip("\ufffd")) :]


def make_reply(
    pair: QAPair,
    written: Written | None,
    *,
    rationale: str,
    answer: str | None,
    forced: Written | None,
    logprobs: Sequence[float],
    num_prompt_tokens: int,
) -> Reply:
    """`written`: None where the rationale was given; `answer`: what the student named there.

    Without an answer of its own it is the likeliest choice, or the first line of `forced`, what it writes
    when asked again. A text that the request itself cut short is left as it is.
    """
    said = answer
    if said is None:
        free = free_answer(forced.text if forced else "", pair)
        said = likeliest(pair.choices, logprobs) if logprobs else free
    own = text = written.text.strip() if written else ""
    if written is not None and answer is None and not written.is_cut:
        text = f"{own}{ANSWER_PHRASE} {said}".strip()
    return Reply(
        text,
        rationale,
        said,
        answer is not None,
        tuple(logprobs),
        num_prompt_tokens,
        sum(each.num_tokens for each in (written, forced) if each),
        added=text.removeprefix(own),
        finish_reason=written.finish_reason if written else "stop",
        is_cut=written is not None and written.is_cut,
        tokens=written.tokens if written else (),
    )


class Pieces:
    """A growing text in pieces, without the space around it and never with half a character.

    Where the text ends before a stop string, what may be the beginning of one is held back.
    """

    def __init__(self, decoding: Decoding = GREEDY) -> None:
        self.shown, self.decoding = "", decoding
        self.num_held = max(map(len, decoding.stop), default=1) - 1

    def upto(self, text: str) -> str:
        """What is new in `text`; "" where it cannot be shown yet."""
        if self.decoding.stop:
            stopped = self.decoding.before_stop(text)
            text = text[: max(0, len(text) - self.num_held)] if stopped is None else stopped
        return "" if text.strip().endswith("\ufffd") else self.rest(text)

    def rest(self, text: str) -> str:
        """What is new in the whole text."""
        text = text.strip()
        if not text.startswith(self.shown):
            return ""
        piece, self.shown = text[len(self.shown) :], text
        return piece


def match_answer(written: str, pair: QAPair) -> str | None:
    """The answer that the student named: a choice, a number or, of an open question, any text."""
    return number_in(written) if pair.task == "number" else match_choice(written, pair.choices)


def match_choice(answer: str, choices: Sequence[str]) -> str | None:
    """The choice that equals `answer` but for case and spacing; open questions take any non-empty answer."""
    if not choices:
        return answer or None
    said = _plain(answer)
    return next((choice for choice in choices if _plain(choice) == said), None)


def _plain(text: str) -> str:
    """As answers are compared, and without the full stop that students like to add."""
    return normalized(text).rstrip(".")


def free_answer(text: str, pair: QAPair) -> str:
    """What was written after a given rationale: its first line, and of that the number where one is asked
    for."""
    line = first_line(text)
    return (number_in(line) or line) if pair.task == "number" else line


def first_line(text: str) -> str:
    """A free answer: the text's first line without its full stop."""
    return text.strip().split("\n")[0].rstrip(".")
