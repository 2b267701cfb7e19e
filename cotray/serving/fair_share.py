"""A number of places, shared among keys so that none of them can take all."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

from cotray.serving.middleware import Refused


class FairShare:
    """So many at once. A key that has its equal share may take more while a quarter is free, so that one
    key alone can use nearly all, and another one finds room at once."""

    def __init__(self, size: int, *, num_keys: int) -> None:
        self.size, self.share = size, max(1, size // max(1, num_keys))
        self.num_taken, self.taken = 0, Counter[bytes]()

    @contextlib.contextmanager
    def place(self, key: bytes) -> Iterator[None]:
        """One of them, or Refused at once."""
        is_scarce = self.num_taken >= self.size * 3 // 4
        if self.num_taken >= self.size or (is_scarce and self.taken[key] >= self.share):
            raise Refused(503, "the service is busy; try again", code="overloaded", retry_after_s=1)
        self.num_taken += 1
        self.taken[key] += 1
        try:
            yield
        finally:
            self.num_taken -= 1
            self.taken[key] -= 1
