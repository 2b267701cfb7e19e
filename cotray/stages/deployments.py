"""What runs on Ray Serve's replicas: a student, a simulator, and the monitor of online LAS."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle
from ray.util import metrics

from cotray.config import RunConfig
from cotray.data.store import RunFolder
from cotray.errors import DataError
from cotray.records import QAPair, Reply, Simulation, StudentAnswer
from cotray.serving.window import Window, Windows

PUBLISH_S = 5
"""Between two exports of online LAS, and two copies of its windows on disk."""


class StudentReplica:
    """One student; concurrent requests go through it in batches."""

    def __init__(self, config: RunConfig, model: str) -> None:
        from cotray.scoring.predict import Student

        tags = config.student.training.tags
        self.student = Student(
            model, config=config.scoring, tags=tags, seed=config.seed, method=config.method
        )
        self.thread = ThreadPoolExecutor(1, "model")
        self._batch.set_max_batch_size(config.serving.student.max_batch_size)  # pyright: ignore
        self._batch.set_batch_wait_timeout_s(config.serving.student.batch_wait_s)  # pyright: ignore

    async def answer(self, pair: QAPair, rationale: str | None) -> Reply:
        async for piece in self._batch((pair, rationale)):  # pyright: ignore[reportArgumentType]
            if isinstance(piece, Reply):
                return piece
        raise AssertionError("a batch ended without a reply")

    async def stream(self, pair: QAPair) -> AsyncIterator[str | Reply]:
        async for piece in self._batch((pair, None)):  # pyright: ignore[reportArgumentType]
            if piece != "":
                yield piece  # pyright: ignore[reportReturnType]

    # With parentheses, because without them Serve refuses generators.
    @serve.batch()  # pyright: ignore[reportCallIssue, reportArgumentType]
    async def _batch(self, asked: list[tuple[QAPair, str | None]]) -> AsyncGenerator[list[str | Reply], None]:
        """For every step of the batch a piece of text per request ("" for none), at the end the Replies."""
        loop, steps = asyncio.get_running_loop(), asyncio.Queue[list[int]]()
        pairs, rationales = [pair for pair, _ in asked], [rationale for _, rationale in asked]
        free = [index for index, rationale in enumerate(rationales) if rationale is None]

        def on_step(tokens: list[int]) -> None:
            loop.call_soon_threadsafe(steps.put_nowait, tokens)

        work = loop.run_in_executor(
            self.thread, lambda: self.student.respond(pairs, rationales, on_step=on_step)
        )
        texts = _Texts(self.student.tokenizer, len(free))
        while not (work.done() and steps.empty()):
            step = asyncio.ensure_future(steps.get())
            await asyncio.wait([step, work], return_when=asyncio.FIRST_COMPLETED)
            if not step.done():
                step.cancel()
                continue
            pieces = dict(zip(free, texts.add(step.result()), strict=True))
            yield [pieces.get(index, "") for index in range(len(asked))]
        replies: list[str | Reply] = [*work.result()]
        rests = dict(zip(free, texts.rests([work.result()[index] for index in free]), strict=True))
        yield [rests.get(index, "") for index in range(len(asked))]
        yield replies


class _Texts:
    """Tokens of several texts, one of each at a time, into pieces of whole characters."""

    def __init__(self, tokenizer: Any, count: int) -> None:
        self.tokenizer = tokenizer
        self.ids: list[list[int]] = [[] for _ in range(count)]
        self.shown = [""] * count

    def add(self, tokens: Sequence[int]) -> list[str]:
        pieces = []
        for index, token in enumerate(tokens):
            self.ids[index].append(token)
            text = self.tokenizer.decode(self.ids[index], skip_special_tokens=True).strip()
            if text.endswith("\ufffd"):  # half of a character
                text = self.shown[index]
            pieces.append(text[len(self.shown[index]) :])
            self.shown[index] = text
        return pieces

    def rests(self, replies: Sequence[Reply]) -> list[str]:
        """What is in the replies' texts and was not shown yet."""
        return [
            reply.text.removeprefix(shown) if reply.text.startswith(shown) else ""
            for shown, reply in zip(self.shown, replies, strict=True)
        ]


class SimulatorReplica:
    """One simulator; concurrent requests go through it in batches."""

    def __init__(self, config: RunConfig, trained: str) -> None:
        from cotray.scoring.simulate import Simulator

        mode = config.simulator.mode
        self.simulator = Simulator(trained if mode == "trained" else config.simulator.model, mode=mode)
        self.thread = ThreadPoolExecutor(1, "model")
        self.simulate.set_max_batch_size(config.serving.simulator.max_batch_size)  # pyright: ignore
        self.simulate.set_batch_wait_timeout_s(config.serving.simulator.batch_wait_s)  # pyright: ignore

    @serve.batch
    async def simulate(self, rows: list[StudentAnswer]) -> list[Simulation]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.thread, self.simulator.simulate, rows)


class LasMonitor:
    """Simulates live answers after the fact, keeps the windows, and exports them."""

    def __init__(
        self, config: RunConfig, root: str, versions: Sequence[str], simulator: DeploymentHandle
    ) -> None:
        serving = config.serving
        self.folder, self.simulator = RunFolder(root), simulator
        self.windows = Windows(versions, size=serving.live_window, alarm_below=serving.alarm_below)
        self.saved: dict[str, int] = {}
        for name in versions:
            with contextlib.suppress(DataError):
                data = self.folder.read_bytes(_window_file(name))
                self.windows.windows[name] = Window.load(serving.live_window, data)
        self.gauges = _gauges()
        self.publishing = asyncio.get_running_loop().create_task(self._publish())

    async def observe(self, version: str, row: StudentAnswer) -> None:
        try:
            self.windows.add(version, await self.simulator.simulate.remote(row))
        except (RayError, BackPressureError):
            self.windows.missed(version)

    async def live(self) -> dict[str, Any]:
        return self.windows.live()

    async def _publish(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(PUBLISH_S)
            live = self.windows.live()
            for name, version in live["versions"].items():
                low, high = version["ci95"] or (None, None)
                values = {"las": version["las"], "las_low": low, "las_high": high}
                values |= {key: version[key] for key in ("sim_gain", "leak_rate", "alarm", "rows", "missed")}
                for key, value in (values | {"stale": live["stale"]}).items():
                    if value is not None:
                        self.gauges[key].set(float(value), tags={"version": name})
                await loop.run_in_executor(None, self._save, name)

    def _save(self, name: str) -> None:
        window = self.windows.windows[name]
        if self.saved.get(name) != window.num_seen + window.num_missed:
            with contextlib.suppress(DataError):
                self.folder.write_bytes(_window_file(name), window.dump())
                self.saved[name] = window.num_seen + window.num_missed


def _window_file(version: str) -> str:
    return f"live/{version}.jsonl"


def _gauges() -> dict[str, metrics.Gauge]:
    texts = {
        "las": "Leakage-adjusted simulatability of live answers",
        "las_low": "2.5 % bound of LAS",
        "las_high": "97.5 % bound of LAS",
        "sim_gain": "Simulation gain of live answers",
        "leak_rate": "Share of live rationales that leak the answer",
        "alarm": "1 while LAS is below serving.alarm_below",
        "rows": "Answers in the window",
        "missed": "Answers that could not be simulated",
        "stale": "1 while the simulator does not answer",
    }
    return {
        name: metrics.Gauge(f"cotray_live_{name}", description=text, tag_keys=("version",))
        for name, text in texts.items()
    }
