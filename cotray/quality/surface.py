"""What a rationale's wording says about it, without a model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from cotray.quality.pair_filter import has_words
from cotray.records import BINARY_CHOICES, Rationale, normalized


@dataclass(frozen=True)
class Surface:
    """Shares are of word pairs that follow each other (of words, in texts of one word); 0 for empty texts.

    `copy_rate`: share that the question, its choices included, has too. `repetition`: share that came
    before in the rationale. `states_answer`: the label is stated outright (see `states_answer`).
    """

    num_words: int
    copy_rate: float
    repetition: float
    states_answer: bool


def surface(rationale: Rationale) -> Surface:
    words = words_of(rationale.rationale)
    size = min(2, len(words))
    grams = _grams(words, size)
    asked = set(_grams(words_of(" ".join([rationale.question, *rationale.choices])), size))
    return Surface(
        num_words=len(words),
        copy_rate=sum(gram in asked for gram in grams) / len(grams) if grams else 0.0,
        repetition=1 - len(set(grams)) / len(grams) if grams else 0.0,
        states_answer=states_answer(rationale),
    )


def states_answer(rationale: Rationale) -> bool:
    """Whether the text gives the answer away that it is for.

    An answer of several words or of a choice: it is in the text as words. Yes, no, true and false are words
    of any text, so there only a sentence that begins with one, or "(the) answer/statement/claim/this/it/that
    is yes" counts; a "no" that goes on, as in "this is no longer made", does not.
    """
    answer = normalized(rationale.target_answer)
    if answer not in BINARY_CHOICES.get(rationale.task, ()):
        return has_words(rationale.rationale, answer)
    starts = rf"(?:^|[.!?]\s+){answer}(?=[,.!;:]|$)"
    says = rf"\b(?:answer|statement|claim|this|it|that)\s+is(?:\s+therefore)?:?\s+{answer}\b"
    if answer == "no":
        says += r"(?=[,.!;:]|$|\s+(?:because|since|as|for)\b)"
    return re.search(f"{starts}|{says}", normalized(rationale.rationale)) is not None


def words_of(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _grams(words: Sequence[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + size]) for i in range(len(words) - size + 1)] if size else []
