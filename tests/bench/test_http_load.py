"""The load generator against a small HTTP server in the same event loop; time is a number the test sets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import web

from cotray.bench.http_load import LoadProcess, Outcome, Send, closed_loop, open_loop, sender

Handler = Callable[[web.Request], Awaitable[web.Response]]


class Clock:
    """Moves only when told to."""

    def __init__(self, *, oversleeps: float = 0.0) -> None:
        self.now, self.oversleeps = 100.0, oversleeps

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds + self.oversleeps


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


async def load(handler: Handler, loop: Callable[[Send], Awaitable[None]]) -> None:
    async with serving(handler) as url, aiohttp.ClientSession() as session:
        await loop(sender(session, url))


async def bodies(count: int) -> AsyncIterator[Any]:
    for index in range(count):
        yield {"index": index}


def test_a_closed_loop_sends_so_many_and_never_more_than_its_workers_at_once() -> None:
    under_way, most_at_once, seen, outcomes = 0, 0, [], []

    async def handler(request: web.Request) -> web.Response:
        """Answers when all three workers wait, or nothing more is to come."""
        nonlocal under_way, most_at_once
        under_way += 1
        most_at_once = max(most_at_once, under_way)
        seen.append(await request.json())
        if under_way == 3 or len(seen) == 7:
            full.set()
        await full.wait()
        under_way -= 1
        return web.json_response({"echo": seen[-1]})

    async def run() -> None:
        nonlocal full
        full = asyncio.Event()
        await load(
            handler,
            lambda send: closed_loop(
                send, bodies(100), workers=3, most=7, seconds=60, tell=outcomes.append, clock=Clock()
            ),
        )

    full: asyncio.Event
    asyncio.run(run())
    assert sorted(body["index"] for body in seen) == [*range(7)]
    assert most_at_once == 3
    assert sorted(outcome.index for outcome in outcomes) == [*range(7)]
    assert all(outcome.is_answered and not outcome.is_refused for outcome in outcomes)


def test_a_closed_loop_begins_nothing_after_its_time() -> None:
    outcomes: list[Outcome] = []
    clock = Clock()

    async def handler(request: web.Request) -> web.Response:
        clock.now += 4
        return web.json_response({})

    asyncio.run(
        load(
            handler,
            lambda send: closed_loop(
                send, bodies(100), workers=1, most=100, seconds=10, tell=outcomes.append, clock=clock
            ),
        )
    )
    assert [(outcome.start, outcome.end) for outcome in outcomes] == [(0, 4), (4, 8), (8, 12)]


def open_outcomes(clock: Clock, held: int, end: float) -> dict[int, Outcome]:
    """Four requests at 2/s to a server that answers when `held` are there, and it is then `end`."""
    outcomes: list[Outcome] = []

    async def run() -> None:
        num_seen, full = 0, asyncio.Event()

        async def handler(request: web.Request) -> web.Response:
            nonlocal num_seen
            num_seen += 1
            if num_seen == held:
                clock.now = 100 + end
                full.set()
            await full.wait()
            return web.json_response({"asked": await request.json()})

        await load(
            handler,
            lambda send: open_loop(
                send, ["a", "b", "c"], rate=2, most=50, seconds=2, tell=outcomes.append, clock=clock,
                sleep=clock.sleep,
            ),
        )  # fmt: skip

    asyncio.run(run())
    return {outcome.index: outcome for outcome in outcomes}


def test_an_open_loop_does_not_wait_for_a_slow_server_and_counts_from_the_schedule() -> None:
    outcomes = open_outcomes(Clock(), held=4, end=9)
    assert [outcomes[index].start for index in range(4)] == [0, 0.5, 1, 1.5]
    assert [outcomes[index].latency_ms for index in range(4)] == [9000, 8500, 8000, 7500]
    assert [outcomes[index].reply["asked"] for index in range(4)] == ["a", "b", "c", "a"]


def test_a_late_sender_counts_the_time_it_was_late() -> None:
    """It wakes up 3 s late and sends what is due at once."""
    outcomes = open_outcomes(Clock(oversleeps=3), held=4, end=5)
    assert [outcomes[index].start for index in range(4)] == [0, 0.5, 1, 1.5]
    assert [outcomes[index].latency_ms for index in range(4)] == [5000, 4500, 4000, 3500]


def test_an_open_loop_is_bounded_in_count() -> None:
    outcomes: list[Outcome] = []
    clock = Clock()

    async def handler(request: web.Request) -> web.Response:
        return web.json_response({})

    asyncio.run(
        load(
            handler,
            lambda send: open_loop(
                send, [0], rate=1000, most=5, seconds=60, tell=outcomes.append, clock=clock, sleep=clock.sleep
            ),
        )
    )
    assert len(outcomes) == 5


def test_refused_is_busy_with_retry_after_and_nothing_else() -> None:
    kinds = [(200, None), (503, "1"), (429, "7"), (503, None), (500, "1"), (404, None)]
    outcomes: list[Outcome] = []

    async def handler(request: web.Request) -> web.Response:
        status, wait = kinds[(await request.json())["index"]]
        return web.json_response({}, status=status, headers={"Retry-After": wait} if wait else {})

    asyncio.run(
        load(
            handler,
            lambda send: closed_loop(
                send, bodies(6), workers=1, most=6, seconds=60, tell=outcomes.append, clock=Clock()
            ),
        )
    )
    assert [outcome.is_answered for outcome in outcomes] == [True, *5 * [False]]
    assert [outcome.is_refused for outcome in outcomes] == [False, True, True, False, False, False]
    assert [outcome.retry_after for outcome in outcomes] == ["", "1", "7", "", "1", ""]


def test_the_second_process_tells_all_outcomes_also_of_a_server_that_is_not_there() -> None:
    async def run() -> tuple[list[Outcome], Outcome, str]:
        async def handler(request: web.Request) -> web.Response:
            return web.json_response({"asked": json.loads(await request.text())})

        async with serving(handler) as url:
            with LoadProcess(url, "closed", "--workers", "2") as process:
                answered = await asyncio.to_thread(process.run, [1, 2, 3])
            with LoadProcess(url, "closed") as process:
                single = await asyncio.to_thread(process.ask, 4)
        return answered, single, url

    answered, single, url = asyncio.run(run())
    assert [(outcome.index, outcome.reply) for outcome in answered] == [
        (index, {"asked": index + 1}) for index in range(3)
    ]
    assert single.reply == {"asked": 4}
    with LoadProcess(url, "open", "--rate", "1000", "--most", "2") as process:
        gone = process.run([1])
    assert [(outcome.status, outcome.is_answered, outcome.is_refused) for outcome in gone] == 2 * [
        (0, False, False)
    ]
