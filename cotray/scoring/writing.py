"""Whether a student can write at all: one that cannot has answers and a LAS too, which mean nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from cotray.records import StudentAnswer

MOST_UNUSABLE = 1 / 3
"""Share of the rationales above which a student is said to be untrained."""
MOST_REPEATED = 0.5
"""Share of the word pairs that came before in the same rationale, above which it repeats itself."""
FEWEST_WORDS = 8
"""Below so many, as in languages without spaces, letters are looked at in place of words."""
LETTERS = 4
FEWEST_LETTERS = 24


def writing(rows: Iterable[StudentAnswer]) -> dict[str, Any]:
    """For a manifest: `n` rationales of the split dev, or of test where there is no dev, and how many of them
    are `empty` or `repeating`."""
    by_split: dict[str, list[str]] = {"dev": [], "test": []}
    for row in rows:
        if row.split in by_split:
            by_split[row.split].append(row.rationale)
    split = "dev" if by_split["dev"] else "test"
    texts = by_split[split]
    empty = sum(not re.search(r"\w", text) for text in texts)
    return {"split": split, "n": len(texts), "empty": empty, "repeating": sum(map(repeats_itself, texts))}


def untrained(found: dict[str, Any] | None) -> str | None:
    """What is said of a student that cannot write, in a sentence without an end; None of another.

    found: what `writing` counted; None where an earlier version of cotray did not.
    """
    if not found or found["empty"] + found["repeating"] <= MOST_UNUSABLE * found["n"]:
        return None
    return (
        f"the student is untrained: of {found['n']} rationales that it wrote for the split {found['split']}, "
        f"{found['empty']} are empty and {found['repeating']} repeat themselves, so that its figures mean "
        "nothing. Train it longer (student.training.epochs, learning_rate), or on more questions"
    )


def repeats_itself(text: str) -> bool:
    """Whether most of a text came before in it: of its word pairs or, with few words, of its letters."""
    words = re.findall(r"\w+", text.casefold())
    if len(words) >= FEWEST_WORDS:
        return _repeated(words, 2) > MOST_REPEATED
    letters = re.findall(r"\w", text.casefold())
    return len(letters) >= FEWEST_LETTERS and _repeated(letters, LETTERS) > MOST_REPEATED


def _repeated(parts: Sequence[str], size: int) -> float:
    grams = [tuple(parts[i : i + size]) for i in range(len(parts) - size + 1)]
    return 1 - len(set(grams)) / len(grams)
