"""What the routes share: limits, the choice of a version, and the models behind `Backend`. No Ray here."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from fastapi import Request

from cotray.config import ServingConfig
from cotray.errors import TooLong
from cotray.inference.decoding import GREEDY, Decoding
from cotray.records import QAPair, Reply, Simulation, StudentAnswer
from cotray.serving.access import Access, is_local
from cotray.serving.fair_share import FairShare
from cotray.serving.middleware import Refused
from cotray.serving.schema import student_row

T = TypeVar("T")
log = logging.getLogger("cotray.answers")

Asked = tuple[QAPair, Decoding]

UNDER_WAY = 8
"""Times `max_queued`: requests with a key that are under way, from head to the end of the response."""
MAX_BATCHES = 8
"""Requests for LAS of many rows that are under way."""
ROWS_AT_ONCE = 16
"""Of one key."""


class Unavailable(Exception):
    """The models cannot take the request now: their queue is full, or a replica died with it."""


class Backend(Protocol):
    """The models, wherever they run; any call may raise Unavailable or TooLong."""

    shares: dict[str, float]
    """Every version's name, and its share of the requests that name none."""

    async def answer(
        self, model: str, pair: QAPair, rationale: str | None, decoding: Decoding = GREEDY
    ) -> Reply: ...

    def stream(self, model: str, pair: QAPair, decoding: Decoding = GREEDY) -> AsyncIterator[str | Reply]:
        """Pieces of the text as the student writes it, then the Reply."""
        ...

    async def simulate(self, model: str, row: StudentAnswer) -> Simulation:
        """By the simulator of that version."""
        ...

    def observe(self, model: str, row: StudentAnswer) -> None:
        """A live answer, for online LAS; returns at once."""
        ...

    async def live(self) -> dict[str, Any]:
        """Online LAS of every version, a new dictionary each time."""
        ...

    async def ready(self) -> dict[str, dict[str, bool]]:
        """Of every version whether its `student` and its `simulator` are loaded."""
        ...


class Service:
    """What the routes share: limits, the choice of a version, and the calls of the backend."""

    def __init__(self, backend: Backend, config: ServingConfig, keys: Sequence[str]) -> None:
        self.backend, self.config = backend, config
        self.access = Access(tuple(keys), per_minute=config.requests_per_minute)
        self.places = FairShare(config.max_queued, num_keys=len(keys))
        self.under_way = FairShare(UNDER_WAY * config.max_queued, num_keys=len(keys))
        self.batches = FairShare(MAX_BATCHES, num_keys=len(keys))
        self.row_places = asyncio.Semaphore(max(1, config.max_queued // 4))
        # A single answer that comes while they are in the student waits for half a batch, and is in the next.
        in_batches = max(1, config.student.replicas.min) * config.student.max_batch_size // 2
        self.answer_places = asyncio.Semaphore(max(1, in_batches))
        self.rows_of_key = defaultdict[bytes, asyncio.Semaphore](lambda: asyncio.Semaphore(ROWS_AT_ONCE))
        self.num_answered = dict.fromkeys(backend.shares, 0)
        """Live answers by version, since this process began."""

    def admit(self, request: Request) -> None:
        """For every route below /v1, before its body is read; `request.state.key` is whose it is."""
        key = self.access.key_of(request.headers.get("authorization", ""))
        if key is None:
            raise Refused(401, "wrong or missing API key", code="invalid_api_key")
        if not self.access.digests and not is_local(request):
            local = "without API keys only direct clients at localhost are answered; set serving.api_keys"
            raise Refused(403, local, code="local_clients_only")
        if wait_s := self.access.wait_s(key):
            raise Refused(
                429, "too many requests of this key", code="rate_limit_exceeded", retry_after_s=wait_s
            )
        request.state.held.enter_context(self.under_way.place(key))
        request.state.key = key

    def version(self, name: str | None) -> str:
        """The named version; without a name, one drawn by the versions' shares."""
        shares = self.backend.shares
        if name is None:
            return random.choices(list(shares), list(shares.values()))[0]
        if name not in shares:
            raise Refused(404, f"no model {name!r}; there are {', '.join(shares)}", code="model_not_found")
        return name

    def check(self, pair: QAPair, rationale: str | None = None) -> QAPair:
        most = self.config.max_choices
        if len(pair.choices) > most:
            wants = f"choices: {most} of one question at most (serving.max_choices)"
            raise Refused(400, wants, code="too_many_choices", param="choices")
        self.check_length(len(pair.question) + sum(map(len, pair.choices)) + len(rationale or ""))
        return pair

    def check_length(self, num_chars: int) -> None:
        if num_chars > self.config.max_chars:
            most = f"{self.config.max_chars} characters at most (serving.max_chars)"
            raise Refused(400, f"question, choices and rationale together: {most}", code="too_long")

    async def call(self, key: bytes, work: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """`work(*arguments)` within the limits of queue and time."""
        async with self._place(key):
            return await work(*arguments)

    @contextlib.asynccontextmanager
    async def row_place(self, key: bytes) -> AsyncIterator[None]:
        """A turn for a row of many. Of each key only so many wait for one, so that keys take turns."""
        async with self.rows_of_key[key], self.row_places:
            yield

    async def call_patiently(self, key: bytes, work: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """As `call`, but waits where there is no place, up to the timeout."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + self.config.timeout_s
        while True:
            try:
                return await self.call(key, work, *arguments)
            except Refused as problem:
                if problem.retry_after_s is None or loop.time() > give_up:
                    raise
                await asyncio.sleep(problem.retry_after_s)

    async def answers(self, key: bytes, model: str, asked: Sequence[Asked]) -> list[Reply]:
        """One answer as `call` gives it; several take turns, as rows of /v1/las do."""
        ask = self.backend.answer
        if len(asked) == 1:
            return [await self.call(key, ask, model, asked[0][0], None, asked[0][1])]

        async def one(pair: QAPair, decoding: Decoding) -> Reply:
            async with self.row_place(key), self.answer_places:
                return await self.call_patiently(key, ask, model, pair, None, decoding)

        asking = [asyncio.ensure_future(one(pair, decoding)) for pair, decoding in asked]
        try:
            return await asyncio.gather(*asking)
        finally:
            for each in asking:
                each.cancel()

    async def stream(
        self, key: bytes, model: str, asked: Sequence[Asked]
    ) -> AsyncIterator[tuple[int, str | Reply]]:
        """Each answer's number and piece, taken as they come: a client that reads slowly keeps no place.

        What waits for it are the replies, which `scoring.max_new_tokens` bounds.
        """
        ready = asyncio.Queue[tuple[int, str | Reply] | None]()

        async def take(index: int, pair: QAPair, decoding: Decoding) -> None:
            turn = self.row_place(key) if len(asked) > 1 else contextlib.nullcontext()
            async with turn, self._place(key):
                async for piece in self.backend.stream(model, pair, decoding):
                    ready.put_nowait((index, piece))

        tasks = [asyncio.ensure_future(take(index, *each)) for index, each in enumerate(asked)]
        taking = asyncio.gather(*tasks)
        taking.add_done_callback(lambda _: ready.put_nowait(None))
        try:
            while (piece := await ready.get()) is not None:
                yield piece
            await taking
        finally:
            for each in tasks:
                each.cancel()

    def observe(self, model: str, pair: QAPair, reply: Reply) -> None:
        """After every live answer; a share of them, drawn at random, is for online LAS.

        What a request cut short says nothing about the student.
        """
        self.num_answered[model] += 1
        if self.config.logged_text == "all":
            shown = {"id": pair.id, "model": model, "question": pair.question, "choices": pair.choices}
            log.info(json.dumps(shown | {"rationale": reply.rationale, "answer": reply.answer}))
        if not reply.is_cut and random.random() < self.config.live_share:
            self.backend.observe(model, student_row(pair, reply.rationale, reply.answer))

    async def live(self) -> dict[str, Any]:
        """Online LAS of every version, and how many answers it gave."""
        with refusing():
            live = await self.backend.live()
        for name, version in live["versions"].items():
            version["answered"] = self.num_answered[name]
        return live

    @contextlib.asynccontextmanager
    async def _place(self, key: bytes) -> AsyncIterator[None]:
        """A place at the models for as long as the timeout; every problem as the client sees it."""
        with self.places.place(key), refusing():
            try:
                async with asyncio.timeout(self.config.timeout_s):
                    yield
            except TimeoutError:
                limit = f"not done within {self.config.timeout_s:g} s"
                raise Refused(504, limit, code="timeout") from None


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """The backend's problems as the client sees them."""
    try:
        yield
    except Unavailable as problem:
        raise Refused(503, str(problem), code="overloaded", retry_after_s=1) from None
    except TooLong as problem:
        raise Refused(400, str(problem), code="too_long") from None
