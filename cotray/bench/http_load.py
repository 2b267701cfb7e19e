"""python -m cotray.bench.http_load URL closed|open: HTTP load from one process, bounded in count and time.

Bodies come as JSON lines on standard input, outcomes go as JSON lines to standard output. A closed loop has
so many workers, each with one request under way, and takes bodies as they come. An open loop reads them all
and sends them, again and again, at a fixed rate whatever the server does; its latencies count from when a
request was to be sent, so that a slow server does not hide the wait it causes.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import math
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

Send = Callable[[Any], Awaitable[tuple[int, str, dict[str, Any]]]]
"""A body -> status (0: no response), Retry-After ("": none), the reply to a 200."""


@dataclass(frozen=True)
class Outcome:
    """One request; times are seconds since the load began."""

    index: int
    start: float
    """When it was sent; in an open loop, when it was to be sent."""
    end: float
    status: int
    retry_after: str = ""
    reply: dict[str, Any] = field(default_factory=dict)

    @property
    def latency_ms(self) -> float:
        return 1000 * (self.end - self.start)

    @property
    def is_answered(self) -> bool:
        return self.status == 200

    @property
    def is_refused(self) -> bool:
        """Told to come again later; any other response but an answer is a failure."""
        return self.status in (429, 503) and bool(self.retry_after)


async def closed_loop(
    send: Send,
    bodies: AsyncIterator[Any],
    *,
    workers: int,
    most: int,
    seconds: float,
    tell: Callable[[Outcome], None],
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """At most `most` requests, none begun after `seconds`, never more than `workers` at once."""
    began, indices, lock = clock(), itertools.count(), asyncio.Lock()

    async def work() -> None:
        while clock() - began < seconds:
            async with lock:
                body, index = await anext(bodies, None), next(indices)
            if body is None or index >= most:
                return
            start = clock() - began
            status, retry_after, reply = await send(body)
            tell(Outcome(index, start, clock() - began, status, retry_after, reply))

    await asyncio.gather(*(work() for _ in range(workers)))


async def open_loop(
    send: Send,
    bodies: Sequence[Any],
    *,
    rate: float,
    most: int,
    seconds: float,
    tell: Callable[[Outcome], None],
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
) -> None:
    """`rate` requests a second for `seconds`, at most `most`."""
    began = clock()

    async def one(index: int) -> None:
        status, retry_after, reply = await send(bodies[index % len(bodies)])
        tell(Outcome(index, index / rate, clock() - began, status, retry_after, reply))

    async with asyncio.TaskGroup() as group:
        for index in range(min(most, math.ceil(rate * seconds))):
            wait = began + index / rate - clock()
            if wait > 0:
                await sleep(wait)
            group.create_task(one(index))


def sender(session: Any, url: str) -> Send:
    """Posts JSON through an aiohttp session."""
    import aiohttp

    async def send(body: Any) -> tuple[int, str, dict[str, Any]]:
        try:
            async with session.post(url, json=body) as response:
                reply = await response.json() if response.status == 200 else {}
                return response.status, response.headers.get("Retry-After", ""), reply
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return 0, "", {}

    return send


class LoadProcess:
    """This module in a second process."""

    def __init__(self, url: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cotray.bench.http_load", url, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def ask(self, body: Any) -> Outcome:
        """One request of a closed loop, and its outcome."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(body) + "\n")
        self.process.stdin.flush()
        return Outcome(**json.loads(self.process.stdout.readline()))

    def run(self, bodies: Iterable[Any]) -> list[Outcome]:
        """All outcomes of a load with these bodies, in the order of the requests."""
        lines, _ = self.process.communicate("".join(json.dumps(body) + "\n" for body in bodies))
        if self.process.returncode:
            raise RuntimeError(f"cotray.bench.http_load ended with status {self.process.returncode}")
        outcomes = [Outcome(**json.loads(line)) for line in lines.splitlines()]
        return sorted(outcomes, key=lambda outcome: outcome.index)


async def _load(arguments: argparse.Namespace) -> None:
    import aiohttp

    limits = {"most": arguments.most, "seconds": arguments.seconds, "tell": _tell}
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=arguments.timeout)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        send = sender(session, arguments.url)
        if arguments.loop == "closed":
            await closed_loop(send, _lines(), workers=arguments.workers, **limits)
        else:
            bodies = [body async for body in _lines()]
            await open_loop(send, bodies, rate=arguments.rate, **limits)


async def _lines() -> AsyncIterator[Any]:
    while line := await asyncio.to_thread(sys.stdin.readline):
        yield json.loads(line)


def _tell(outcome: Outcome) -> None:
    print(json.dumps(asdict(outcome)), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m cotray.bench.http_load", description="Bounded HTTP load."
    )
    parser.add_argument("url")
    parser.add_argument("loop", choices=["closed", "open"])
    parser.add_argument("--workers", type=int, default=1, help="of a closed loop (default 1)")
    parser.add_argument("--rate", type=float, default=1.0, help="requests/s of an open loop (default 1)")
    parser.add_argument("--most", type=int, default=1000, help="requests at most (default 1000)")
    parser.add_argument("--seconds", type=float, default=60, help="none is begun after that (default 60)")
    parser.add_argument("--timeout", type=float, default=120, help="seconds of one request (default 120)")
    asyncio.run(_load(parser.parse_args()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
