"""Why rows failed, counted: beside a stage's other counts, under keys that begin with `cause/`."""

from __future__ import annotations

import re
from collections import Counter

CAUSE = "cause/"
OTHERS = f"{CAUSE}other causes"
MAX_CAUSES = 100
"""Errors may quote their rows, so that there can be as many causes as rows."""


def key_of(error: str) -> str:
    """The key that an error counts under; errors that differ in numbers alone share it."""
    return f"{CAUSE}{re.sub(r'[0-9]+', 'N', error)[:200]}"


def keep_most_common(counts: Counter[str]) -> None:
    """Leave the MAX_CAUSES most common causes, and count the others as one."""
    causes = [key for key in counts if key.startswith(CAUSE) and key != OTHERS]
    for key in sorted(causes, key=lambda key: (-counts[key], key))[MAX_CAUSES:]:
        counts[OTHERS] += counts.pop(key)


def causes_of(counts: Counter[str]) -> Counter[str]:
    """How many rows failed of what."""
    return Counter({key.removeprefix(CAUSE): n for key, n in counts.items() if key.startswith(CAUSE)})
