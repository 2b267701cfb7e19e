"""Requests that come one by one go through a model together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Asked = TypeVar("Asked")
Made = TypeVar("Made")


class RequestBatches(Generic[Asked, Made]):
    """While one batch is in the model the next one gathers, so that a busy model gets full batches.

    `serve.batch` ends a batch `wait_s` after its first request even when the model is busy: requests that
    come further apart than that then go through it one by one, however many are waiting.
    """

    def __init__(
        self, work: Callable[[list[Asked]], Awaitable[Sequence[Made]]], *, max_size: int, wait_s: float
    ) -> None:
        """`work` is given at most `max_size`; an idle model waits `wait_s` for more than one."""
        self.work, self.max_size, self.wait_s = work, max_size, wait_s
        self.waiting = asyncio.Queue[tuple[Asked, asyncio.Future[Made]]]()
        self.running = asyncio.get_running_loop().create_task(self._run())

    async def ask(self, asked: Asked) -> Made:
        """What `work` made of it. Cancelled before its batch began, it is in none."""
        made: asyncio.Future[Made] = asyncio.get_running_loop().create_future()
        self.waiting.put_nowait((asked, made))
        return await made

    async def _run(self) -> None:
        while True:
            batch = await self._gather()
            try:
                made = await self.work([asked for asked, _ in batch])
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
            else:
                for (_, future), one in zip(batch, made, strict=True):
                    if not future.done():
                        future.set_result(one)

    async def _gather(self) -> list[tuple[Asked, asyncio.Future[Made]]]:
        batch = [await self._next()]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.wait_s):
                while len(batch) < self.max_size:
                    batch.append(await self._next())
        return batch

    async def _next(self) -> tuple[Asked, asyncio.Future[Made]]:
        while True:
            asked, made = await self.waiting.get()
            if not made.done():  # given up
                return asked, made
