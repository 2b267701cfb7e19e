"""A replica's threads take turns at its model, one unit each: who is done first, and what is left after.

Units are numbers of batches, in the order of their turns.
"""

from __future__ import annotations

from collections.abc import Sequence


def first_done(units: Sequence[int]) -> tuple[int, int]:
    """Which unit is decoded first, and the batches of all units that are decoded until then.

    When unit p of r batches is done, those before it had r turns and those after it r - 1.
    """
    place = min(range(len(units)), key=lambda p: (units[p], p))
    turns = units[place]
    return place, turns * (place + 1) + (turns - 1) * (len(units) - place - 1)


def after(units: Sequence[int], num_batches: int) -> list[int]:
    """What is left, next turn first, when so many batches are decoded and at most one unit is done."""
    rounds, extra = divmod(num_batches, len(units))
    left = [unit - rounds - (place < extra) for place, unit in enumerate(units)]
    return [unit for unit in left[extra:] + left[:extra] if unit]
