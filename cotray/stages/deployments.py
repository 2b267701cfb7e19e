"""What runs on Ray Serve's replicas: a student, a simulator, and the monitor of online LAS."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle
from ray.util import metrics

from cotray.config import RunConfig
from cotray.data.store import RunFolder
from cotray.errors import DataError
from cotray.records import QAPair, Reply, Simulation, StudentAnswer
from cotray.serving.window import Window, Windows
from cotray.stages.batches import Batches

PUBLISH_S = 5
"""Between two exports of online LAS, and two copies of its windows on disk."""


@dataclass(frozen=True)
class _Asked:
    pair: QAPair
    rationale: str | None
    show: Callable[[str], None] | None = None
    """Hears the text piece by piece, while it is written."""


class StudentReplica:
    """One student; concurrent requests go through it in batches."""

    def __init__(self, config: RunConfig, model: str) -> None:
        from cotray.scoring.predict import Student

        tags = config.student.training.tags
        self.student = Student(
            model, config=config.scoring, tags=tags, seed=config.seed, method=config.method
        )
        self.thread = ThreadPoolExecutor(1, "model")
        options = config.serving.student
        self.batches = Batches(self._respond, max_size=options.max_batch_size, wait_s=options.batch_wait_s)

    async def answer(self, pair: QAPair, rationale: str | None) -> Reply:
        return await self.batches.ask(_Asked(pair, rationale))

    async def stream(self, pair: QAPair) -> AsyncIterator[str | Reply]:
        pieces = asyncio.Queue[str | None]()
        reply = asyncio.ensure_future(self.batches.ask(_Asked(pair, None, pieces.put_nowait)))
        reply.add_done_callback(lambda _: pieces.put_nowait(None))
        try:
            while (piece := await pieces.get()) is not None:
                if piece:
                    yield piece
            yield await reply
        finally:
            reply.cancel()

    async def _respond(self, asked: list[_Asked]) -> list[Reply]:
        loop = asyncio.get_running_loop()
        pairs, rationales = [one.pair for one in asked], [one.rationale for one in asked]
        free = [index for index, rationale in enumerate(rationales) if rationale is None]
        texts = {index: _Text(self.student.tokenizer, show) for index in free if (show := asked[index].show)}

        def on_step(tokens: list[int]) -> None:
            for index, token in zip(free, tokens, strict=True):
                if index in texts:
                    loop.call_soon_threadsafe(texts[index].add, token)

        heard = on_step if texts else None
        replies = await loop.run_in_executor(
            self.thread, lambda: self.student.respond(pairs, rationales, on_step=heard)
        )
        for index, text in texts.items():
            text.end(replies[index])
        return replies


class _Text:
    """The tokens of one text, one at a time, into pieces of whole characters."""

    def __init__(self, tokenizer: Any, show: Callable[[str], None]) -> None:
        self.tokenizer, self.show = tokenizer, show
        self.ids: list[int] = []
        self.shown = ""

    def add(self, token: int) -> None:
        self.ids.append(token)
        text = self.tokenizer.decode(self.ids, skip_special_tokens=True).strip()
        if not text.endswith("\ufffd"):  # half of a character
            self.show(text[len(self.shown) :])
            self.shown = text

    def end(self, reply: Reply) -> None:
        """Shows what is in the reply's text and was not shown yet."""
        if reply.text.startswith(self.shown):
            self.show(reply.text.removeprefix(self.shown))


class SimulatorReplica:
    """One simulator; concurrent requests go through it in batches."""

    def __init__(self, config: RunConfig, trained: str) -> None:
        from cotray.scoring.simulate import Simulator

        mode = config.simulator.mode
        self.simulator = Simulator(trained if mode == "trained" else config.simulator.model, mode=mode)
        self.thread = ThreadPoolExecutor(1, "model")
        options = config.serving.simulator
        self.batches = Batches(self._simulate, max_size=options.max_batch_size, wait_s=options.batch_wait_s)

    async def simulate(self, row: StudentAnswer) -> Simulation:
        return await self.batches.ask(row)

    async def _simulate(self, rows: list[StudentAnswer]) -> list[Simulation]:
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
