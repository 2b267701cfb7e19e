"""Which of the pairs that a model wrote about a text are kept."""

from __future__ import annotations

import re
from collections.abc import Sequence

from cotray.prompts.qa_pairs import QuestionAnswer, parse_pair
from cotray.records import normalized


def select_pairs(texts: Sequence[str], source: str, *, most: int) -> tuple[QuestionAnswer, ...]:
    """At most `most` pairs whose answers are words of `source`, taken from the distinct answers in turn.

    `texts` are continuations, the best first: that order decides within an answer and between answers.
    (The original sorts by the beams' scores, which need not be equal in another batch.)
    """
    by_answer: dict[str, dict[str, QuestionAnswer]] = {}
    for text in texts:
        pair = parse_pair(text)
        if pair is not None and has_words(source, pair.answer):
            questions = by_answer.setdefault(normalized(pair.answer), {})
            questions.setdefault(normalized(pair.question), pair)
    rounds = max(map(len, by_answer.values()), default=0)
    turns = [list(questions.values()) for questions in by_answer.values()]
    return tuple(pairs[turn] for turn in range(rounds) for pairs in turns if turn < len(pairs))[:most]


def has_words(text: str, words: str) -> bool:
    """Whether `words` are in `text` as whole words, but for case and spacing: "art" is not in "party"."""
    text, words = normalized(text), normalized(words)
    start = text.find(words) if words else -1
    if start < 0:
        return False
    around = text[start - 1 : start] + text[(end := start + len(words)) : end + 1]
    return re.search(r"\w", around) is None or _with_edges(words) in _with_edges(text)


def _with_edges(text: str) -> str:
    """A normalized text, marked by space it cannot have where a word can begin and where one can end.

    Words with their marks are in a text with its marks exactly where they are whole words of it. That is
    found in linear time; a pattern of long words that repeat themselves takes quadratic time.
    """
    return re.sub(r"(?!\w)", "\t", re.sub(r"(?<!\w)", "\n", text))
