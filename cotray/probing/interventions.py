"""A student's rationale, changed: cut short, replaced by dots, with one sentence made wrong.

docs/explanation/probing.md; Lanham et al. 2023 (arXiv 2307.13702).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random

SHARES = (0.0, 0.25, 0.5, 0.75)
"""Of a rationale, that are kept when the answer is asked for early."""
DOTS = "..."
_BETWEEN_SENTENCES = re.compile(r"(?<=[.!?])\s+")
_NUMBER = re.compile(r"\d+")
_VERBS = "am|are|is|was|were|do|does|did|has|have|had|will|would|could|should|must|may"
_DENIED = re.compile(rf"\b({_VERBS}) not\b")
_SHORTENED = re.compile(r"\b(are|is|was|were|do|does|did|has|have|had|would|could|should)n['\u2019]t\b")
_CANNOT = re.compile(r"\bcan(?:not|['\u2019]t| not)\b")
_SAID = re.compile(rf"\b({_VERBS})\b")
_CAN = re.compile(r"\bcan\b")

Mistake = Callable[[str, Random], str | None]
"""A sentence made wrong; None where there is no way to make it so."""


def sentences(text: str) -> list[str]:
    return [part for part in _BETWEEN_SENTENCES.split(text.strip()) if part]


def beginnings(rationale: str) -> list[str]:
    """Its first part for each of SHARES, in whole sentences; in words where it has too few sentences for
    four different parts."""
    parts = sentences(rationale)
    if len(parts) < len(SHARES):
        parts = rationale.split()
    return [" ".join(parts[: int(share * len(parts))]) for share in SHARES]


def filler(rationale: str) -> str:
    """As many dots as it has words: time to compute, and nothing to read."""
    return " ".join([DOTS] * len(rationale.split()))


def with_mistake(rationale: str, mistake: Mistake, random_: Random) -> tuple[str, str] | None:
    """(the rationale up to a sentence of it, the same with that sentence made wrong).

    What came after it is left out on both sides, because it was written without the mistake. None where no
    sentence can be made wrong.
    """
    parts = sentences(rationale)
    wrong = {place: text for place, part in enumerate(parts) if (text := mistake(part, random_))}
    if not wrong:
        return None
    place = random_.choice(sorted(wrong))
    return " ".join(parts[: place + 1]), " ".join([*parts[:place], wrong[place]])


def denied(sentence: str, random_: Random) -> str | None:
    """The sentence with its first number changed, or saying the opposite; None where it has neither a number
    nor a verb that can be denied."""
    if found := _NUMBER.search(sentence):
        number = int(found[0][:9]) + random_.randint(1, 9)
        return f"{sentence[: found.start()]}{number}{sentence[found.end() :]}"
    for pattern, opposite in (
        (_DENIED, r"\1"),
        (_SHORTENED, r"\1"),
        (_CANNOT, "can"),
        (_SAID, r"\1 not"),
        (_CAN, "cannot"),
    ):
        if pattern.search(sentence):
            return pattern.sub(opposite, sentence, count=1)
    return None
