"""How long a served student is silent while one client attacks it.

A tiny untrained student on a Ray Serve of its own, asked by a prober with a key all the time: every route,
one request after the other. The silence of a route is the longest time between sending such a request and
its response. Attacks come from a process of their own, one after the other, each for so many seconds:

- `spaces`: chats of a megabyte of spaces within a choice;
- `bodies`: 660 connections without a key that send their headers and one byte of a body;
- `rows`: four requests for LAS of 2,000 rows, again and again.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cotray.bench.served import served, served_config

KEY = "bench-key"
HEADERS = {"Authorization": f"Bearer {KEY}"}
QUESTION = {"question": "Is ice cold?", "task": "yes_no"}
ROUTES = ("GET /healthz", "GET /readyz", "GET /v1/models", "POST /v1/answer")
NUM_BODIES = 660
NUM_BATCHES, NUM_ROWS = 4, 2000


@dataclass
class Probed:
    """One route under one attack."""

    silence_s: float = 0.0
    num_asked: int = 0
    num_good: int = 0


@dataclass
class Probe:
    """Asks every route until it is told to stop."""

    url: str
    seen: dict[str, Probed] = field(default_factory=lambda: {route: Probed() for route in ROUTES})

    async def during(self, seconds: float) -> None:
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=seconds + 120)
        async with aiohttp.ClientSession(headers=HEADERS, timeout=timeout) as session:
            until = time.monotonic() + seconds
            await asyncio.gather(*(self._ask(session, route, until) for route in ROUTES))

    async def _ask(self, session: Any, route: str, until: float) -> None:
        method, _, path = route.partition(" ")
        body = QUESTION if method == "POST" else None
        while time.monotonic() < until:
            began, status = time.monotonic(), 0
            with contextlib.suppress(OSError, TimeoutError):
                async with session.request(method, self.url + path, json=body) as response:
                    await response.read()
                    status = response.status
            seen = self.seen[route]
            seen.silence_s = max(seen.silence_s, time.monotonic() - began)
            seen.num_asked += 1
            seen.num_good += status == 200
            await asyncio.sleep(0.05)  # a probe, and no attack of its own


def bench_attack(*, seconds: float) -> dict[str, Any]:
    """Print the table and return the figures."""
    folder = Path(tempfile.mkdtemp(prefix="ct-", dir="/tmp"))
    print(f"load average before: {os.getloadavg()[0]:.2f} on {os.cpu_count()} CPUs")
    figures: dict[str, Any] = {"seconds": seconds}
    os.environ["COTRAY_API_KEYS"] = KEY
    config = served_config(folder / "run", "random:qwen2", max_new_tokens=16, serving={"live_share": 0})
    print(f"{'attack':<9}{'route':<18}{'silence s':>10}{'asked':>8}{'answered 200':>14}")
    try:
        with served(config, folder) as url:
            for name in ("none", *ATTACKS):
                for route, seen in _attacked(name, url, seconds).items():
                    share = seen.num_good / max(1, seen.num_asked)
                    print(f"{name:<9}{route:<18}{seen.silence_s:>10.2f}{seen.num_asked:>8}{share:>14.3f}")
                    key = f"{name}_{route.rpartition('/')[2]}"
                    figures[f"{key}_silence_s"], figures[f"{key}_asked"] = seen.silence_s, seen.num_asked
                    figures[f"{key}_answered"] = seen.num_good
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return figures


def _attacked(name: str, url: str, seconds: float) -> dict[str, Probed]:
    probe = Probe(url)
    asyncio.run(Probe(url).during(2))  # so that all is warm
    attacker = multiprocessing.get_context("spawn").Process(target=_attack, args=(name, url, seconds))
    attacker.start()
    try:
        asyncio.run(probe.during(seconds))
    finally:
        attacker.kill()
        attacker.join()
    return probe.seen


def _attack(name: str, url: str, seconds: float) -> None:
    if name in ATTACKS:
        asyncio.run(ATTACKS[name](url, time.monotonic() + seconds))


async def _spaces(url: str, until: float) -> None:
    messages = [{"role": "user", "content": "A) x" + " " * 1_000_000 + "y"}]
    await _posted(url + "/v1/chat/completions", {"model": "student", "messages": messages}, 1, until)


async def _rows(url: str, until: float) -> None:
    row = {"question": "Is ice cold?", "task": "yes_no"}
    body = {"rows": [row] * NUM_ROWS, "num_resamples": 100}
    await _posted(url + "/v1/las", body, NUM_BATCHES, until)


async def _posted(url: str, body: Any, num_at_once: int, until: float) -> None:
    import aiohttp

    async def keep_posting(session: Any) -> None:
        while time.monotonic() < until:
            with contextlib.suppress(OSError, TimeoutError, aiohttp.ClientError):
                async with session.post(url, json=body) as response:
                    await response.read()
            await asyncio.sleep(0.05)

    async with aiohttp.ClientSession(headers=HEADERS, timeout=aiohttp.ClientTimeout(total=600)) as session:
        await asyncio.gather(*(keep_posting(session) for _ in range(num_at_once)))


async def _bodies(url: str, until: float) -> None:
    host, _, port = url.removeprefix("http://").partition(":")
    lines = ["POST /v1/answer HTTP/1.1", f"Host: {host}", "Content-Type: application/json"]
    sent = "\r\n".join([*lines, "Content-Length: 1000", "", "{"]).encode()

    async def keep_sending() -> None:
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection(host, int(port))
                writer.write(sent)
                await reader.read()  # until the service closes
                writer.close()
            await asyncio.sleep(1)

    await asyncio.gather(*(keep_sending() for _ in range(NUM_BODIES)))


ATTACKS: dict[str, Callable[[str, float], Coroutine[Any, Any, None]]] = {
    "spaces": _spaces,
    "bodies": _bodies,
    "rows": _rows,
}
