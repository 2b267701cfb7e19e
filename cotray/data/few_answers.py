"""Answers that are a few labels which come again and again: those are choices, and not open answers."""

from __future__ import annotations

from collections.abc import Iterable

from cotray.records import normalized

MOST_LABELS = 5
FEWEST_EACH = 3
"""Times that each label is there; a chance repetition is no label."""


def labels_of(answers: Iterable[str]) -> tuple[str, ...]:
    """The labels, sorted; () where the answers are not a few that come again and again, or are numbers."""
    written: dict[str, list[str]] = {}
    for answer in answers:
        written.setdefault(normalized(answer), []).append(answer)
    # Numbers are values to write, or places among choices that are elsewhere.
    if any(answer.strip().isdecimal() for answer in written):
        return ()
    if not 2 <= len(written) <= MOST_LABELS or any(len(same) < FEWEST_EACH for same in written.values()):
        return ()
    return tuple(sorted(same[0] for same in written.values()))
