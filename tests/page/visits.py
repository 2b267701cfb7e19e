"""A backend made by hand behind the real application, and what a visitor of its page does."""

from __future__ import annotations

import json
import random
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from playwright.sync_api import ConsoleMessage, Page, Request

from cotray.config import ServingConfig
from cotray.config.data import DataConfig
from cotray.inference.decoding import GREEDY, Decoding
from cotray.records import QAPair, Reply, Simulation, StudentAnswer
from cotray.serving.app import create_app
from cotray.serving.examples import examples_of
from cotray.serving.las_window import Windows

MINUTE_MS = 60_000
SWITCH = "Answer after this rationale"


class Scripted:
    """Its students take the choice that their rationale names, and otherwise the first.

    Its simulator says the last choice from x; from e and from both the one the rationale names.
    """

    def __init__(self, versions: tuple[str, ...] = ("student",), alarm_below: float | None = 0.05) -> None:
        self.shares = dict.fromkeys(versions, 1.0)
        self.rationale = "A tyre is a closed bag of gas, and warm gas pushes harder on its walls."
        self.windows = Windows(versions, size=400, alarm_below=alarm_below)
        draws = random.Random(7)
        for version in versions:
            for _ in range(200):
                self.windows.add(version, earlier(draws))

    async def answer(
        self, model: str, pair: QAPair, rationale: str | None, decoding: Decoding = GREEDY
    ) -> Reply:
        given = rationale or self.rationale
        answer = named(given, pair.choices)
        logprobs = tuple(0.0 if choice == answer else -1.5 for choice in pair.choices)
        return Reply(f"{given} So the answer is {answer}", given, answer, rationale is None, logprobs, 5, 4)

    async def stream(
        self, model: str, pair: QAPair, decoding: Decoding = GREEDY
    ) -> AsyncIterator[str | Reply]:
        yield await self.answer(model, pair, None)

    async def simulate(self, model: str, row: StudentAnswer) -> Simulation:
        return simulated(row)

    def observe(self, model: str, row: StudentAnswer) -> None:
        self.windows.add(model, simulated(row))

    async def live(self) -> dict[str, Any]:
        return self.windows.live()

    async def ready(self) -> dict[str, dict[str, bool]]:
        return {kind: dict.fromkeys(self.shares, True) for kind in ("student", "simulator")}


def named(rationale: str, choices: tuple[str, ...]) -> str:
    return next((choice for choice in choices if choice in rationale), choices[0] if choices else "the Moon")


def simulated(row: StudentAnswer) -> Simulation:
    says = named(row.rationale, row.choices)
    from_x = row.choices[-1] if row.choices else "the wind"
    return Simulation.from_row(row.to_row() | {"sim_x": from_x, "sim_e": says, "sim_xe": says})


def earlier(draws: random.Random) -> Simulation:
    """A live answer from before, which the simulator predicts better with the rationale."""
    predictions = {name: "yes" if draws.random() < p else "no" for name, p in PREDICTED.items()}
    row = {"id": "q", "task": "yes_no", "question": "Q?", "choices": ["yes", "no"], "answer": "yes"}
    return Simulation.from_row(row | {"student_answer": "yes"} | predictions)


PREDICTED = {"sim_x": 0.5, "sim_e": 0.4, "sim_xe": 0.75}


@contextmanager
def serving(
    backend: Scripted, *keys: str, data: DataConfig | None = None, untrained: Mapping[str, str] | None = None
) -> Iterator[str]:
    """The address of an application over the backend, on a port of its own; data is what it learned."""
    offered = examples_of(data or DataConfig())
    app = create_app(backend, ServingConfig(live_share=1), keys, offered, untrained or {})
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        listening.close()
        assert not thread.is_alive()


@dataclass
class Visit:
    """A page, and what it asked for and complained about; Chromium logs CSP violations as errors."""

    page: Page
    errors: list[str] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)

    def hear(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def hosts(self) -> set[str]:
        return {urlsplit(request.url).netloc for request in self.requests if request.url.startswith("http")}

    def bodies(self, path: str) -> list[dict[str, Any]]:
        sent = [request for request in self.requests if urlsplit(request.url).path == path]
        return [json.loads(request.post_data or "{}") for request in sent]


Visiting = Callable[..., Visit]


def ask(page: Page, task: str, question: str | None = None, choices: tuple[str, ...] = ()) -> None:
    """Ask the example of a format, or a question of one's own."""
    page.get_by_label(task, exact=True).check()
    page.get_by_role("button", name="Fill in an example").click()
    if question:
        page.get_by_label("Question").fill(question)
    if choices:
        page.get_by_label("Choices").fill("\n".join(choices))
    page.get_by_role("button", name="Ask").click()


def switch(page: Page, rationale: str) -> None:
    page.get_by_role("textbox", name="Rationale").fill(rationale)
    page.get_by_role("button", name=SWITCH).click()


def drawn(page: Page, axis: str) -> list[list[float]]:
    """The chart's lines on one of its two panels, as plotly holds them."""
    return page.evaluate(
        """axis => (document.getElementById("chart").data ?? [])
            .filter((trace) => trace.fill !== "toself" && (trace.yaxis ?? "y") === axis)
            .map((trace) => [...trace.y])""",
        axis,
    )


def wait_for_chart(page: Page, num_points: int = 1) -> None:
    wait_until(page, 'document.querySelector("#chart .main-svg")')
    wait_until(page, f"{CHART}[1].x.length >= {num_points}")


def wait_until(page: Page, expression: str) -> None:
    # As a function, for an expression would be evaluated again and again, which the page's policy forbids.
    page.wait_for_function(f"() => {expression}")


CHART = 'document.getElementById("chart").data'
"""Per version the interval, the line of LAS and that of traffic; the alarm last."""
