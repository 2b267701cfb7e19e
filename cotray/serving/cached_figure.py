"""A figure that many ask for, made once a second however many they are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")
FRESH_S = 1.0


class CachedFigure(Generic[T]):
    """What `make` gave less than FRESH_S ago; those who ask meanwhile wait for the same call."""

    def __init__(self, make: Callable[[], Awaitable[T]], clock: Callable[[], float] = time.monotonic) -> None:
        self.make, self.clock = make, clock
        self.making: asyncio.Future[T] | None = None
        self.fresh_until = 0.0

    async def get(self) -> T:
        if self.making is None or (self.making.done() and self.clock() >= self.fresh_until):
            self.making = asyncio.ensure_future(self._made())
        # One who gives up does not take the figure from the others.
        return await asyncio.shield(self.making)

    async def _made(self) -> T:
        try:
            return await self.make()
        finally:
            self.fresh_until = self.clock() + FRESH_S
