"""What the routes share: limits, the choice of a version, and the models behind `Backend`. No Ray here."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

from fastapi import Request

from cotray.config import ServingConfig
from cotray.records import QAPair, Reply, Simulation, StudentAnswer
from cotray.serving.access import Access
from cotray.serving.envelope import Refused
from cotray.serving.schema import student_row

T = TypeVar("T")


class Busy(Exception):
    """The models' queue is full."""


class Backend(Protocol):
    """The models, wherever they run; any call may raise Busy."""

    shares: dict[str, float]
    """Every version's name, and its share of the requests that name none."""

    async def answer(self, model: str, pair: QAPair, rationale: str | None) -> Reply: ...

    def stream(self, model: str, pair: QAPair) -> AsyncIterator[str | Reply]:
        """Pieces of the text as the student writes it, then the Reply."""
        ...

    async def simulate(self, row: StudentAnswer) -> Simulation: ...

    def observe(self, model: str, row: StudentAnswer) -> None:
        """A live answer, for online LAS; returns at once."""
        ...

    async def live(self) -> dict[str, Any]: ...

    async def ready(self) -> dict[str, bool]: ...


class Service:
    """What the routes share: limits, the choice of a version, and the calls of the backend."""

    def __init__(self, backend: Backend, config: ServingConfig, keys: Sequence[str]) -> None:
        self.backend, self.config = backend, config
        self.access = Access(tuple(keys), per_minute=config.requests_per_minute)
        self.num_waiting = 0
        self.num_answered = dict.fromkeys(backend.shares, 0)
        """Live answers by version, since this process began."""

    async def admit(self, request: Request) -> None:
        """For every route below /v1."""
        key = self.access.key_of(request.headers.get("authorization", ""))
        if key is None:
            raise Refused(401, "wrong or missing API key", code="invalid_api_key")
        if wait_s := self.access.wait_s(key):
            raise Refused(
                429, "too many requests of this key", code="rate_limit_exceeded", retry_after_s=wait_s
            )

    def version(self, name: str | None) -> str:
        """The named version; without a name, one drawn by the versions' shares."""
        shares = self.backend.shares
        if name is None:
            return random.choices(list(shares), list(shares.values()))[0]
        if name not in shares:
            raise Refused(404, f"no model {name!r}; there are {', '.join(shares)}", code="model_not_found")
        return name

    def check(self, pair: QAPair) -> QAPair:
        if len(pair.choices) > self.config.max_choices:
            raise Refused(400, f"more than {self.config.max_choices} choices", code="too_many_choices")
        return pair

    async def call(self, work: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """`work(*arguments)` with the limits of queue and time."""
        self._enter()
        try:
            return await asyncio.wait_for(work(*arguments), self.config.timeout_s)
        except (Busy, TimeoutError) as problem:
            raise _refused(problem, self.config) from None
        finally:
            self.num_waiting -= 1

    async def stream(self, pieces: AsyncIterator[str | Reply]) -> AsyncIterator[str | Reply]:
        self._enter()
        try:
            async with asyncio.timeout(self.config.timeout_s):
                async for piece in pieces:
                    yield piece
        except (Busy, TimeoutError) as problem:
            raise _refused(problem, self.config) from None
        finally:
            self.num_waiting -= 1

    def observe(self, model: str, pair: QAPair, reply: Reply) -> None:
        """A share of the live answers, drawn at random."""
        self.num_answered[model] += 1
        if random.random() < self.config.live_share:
            self.backend.observe(model, student_row(pair, reply.rationale, reply.answer))

    async def live(self) -> dict[str, Any]:
        """Online LAS of every version, and how many answers it gave."""
        live = await self.backend.live()
        for name, version in live["versions"].items():
            version["answered"] = self.num_answered[name]
        return live

    def _enter(self) -> None:
        if self.num_waiting >= self.config.max_queued:
            raise _refused(Busy(), self.config)
        self.num_waiting += 1


def _refused(problem: Exception, config: ServingConfig) -> Refused:
    if isinstance(problem, Busy):
        return Refused(503, "all models are busy; try again", code="overloaded", retry_after_s=1)
    return Refused(504, f"not done within {config.timeout_s:g} s", code="timeout")
