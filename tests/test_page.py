"""The web page in headless Chromium, over a backend made by hand; its live figures are real windows."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvicorn
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect

from cotray.config import ServingConfig
from cotray.records import QAPair, Reply, Simulation, StudentAnswer
from cotray.serving.app import create_app
from cotray.serving.page import MODULES, WEB
from cotray.serving.window import Windows

SCREENSHOTS = Path(__file__).parent.parent / "build" / "screenshots"
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

    async def answer(self, model: str, pair: QAPair, rationale: str | None) -> Reply:
        given = rationale or self.rationale
        answer = named(given, pair.choices)
        logprobs = tuple(0.0 if choice == answer else -1.5 for choice in pair.choices)
        return Reply(f"{given} So the answer is {answer}", given, answer, rationale is None, logprobs, 5, 4)

    async def stream(self, model: str, pair: QAPair) -> AsyncIterator[str | Reply]:
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
def serving(backend: Scripted, *keys: str) -> Iterator[str]:
    """The address of an application over the backend, on a port of its own."""
    app = create_app(backend, ServingConfig(live_share=1), keys)
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


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visiting]:
    """Opens the page of an address, in a context of its own."""
    contexts = []

    def open_(address: str, *, clock: bool = False, **options: Any) -> Visit:
        contexts.append(browser.new_context(base_url=address, reduced_motion="reduce", **options))
        contexts[-1].set_default_timeout(20_000)
        seen = Visit(contexts[-1].new_page())
        page = seen.page
        page.on("console", seen.hear)
        page.on("pageerror", lambda error: seen.errors.append(str(error)))
        page.on("request", lambda request: seen.requests.append(request))
        if clock:
            page.clock.install()
        page.goto("/")
        return seen

    yield open_
    for context in contexts:
        context.close()


@pytest.fixture(autouse=True, scope="module")
def patience() -> None:
    expect.set_options(timeout=20_000)


@pytest.fixture
def page(visit: Visiting) -> Iterator[Page]:
    """The page over one version, without keys."""
    with serving(Scripted()) as address:
        yield visit(address).page


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


def test_asking_shows_rationale_answer_predictions_and_whether_the_rationale_leaks(page: Page) -> None:
    ask(page, "Multiple choice")
    said = page.locator("#said")
    expect(said.locator("blockquote")).to_have_text(Scripted().rationale)
    expect(said.locator("#answer")).to_have_text("the air in it expands")
    expect(said).to_contain_text("Written by student itself")
    expect(said.get_by_role("listitem")).to_have_count(4)
    # softmax of (0, -1.5, -1.5, -1.5): 1 / (1 + 3 e^-1.5)
    expect(said.get_by_role("listitem").first).to_have_text("the air in it expands59.9 %")
    rows = page.locator("#predictions tr")
    expect(rows).to_have_text(
        [
            "the question alonethe wheel spins faster✗ no",
            "the rationale alonethe air in it expands✓ yes",
            "question and rationalethe air in it expands✓ yes",
        ]
    )
    expect(page.locator("#simulated")).to_contain_text(
        "The rationale leaks: the simulator gets the student's answer"
    )
    expect(page.locator("#simulated")).to_contain_text("it helps")


def test_a_rationale_that_the_simulator_cannot_answer_from_alone_does_not_leak(visit: Visiting) -> None:
    class Other(Scripted):
        async def simulate(self, model: str, row: StudentAnswer) -> Simulation:
            return Simulation.from_row(row.to_row() | {"sim_x": "yes", "sim_e": "no", "sim_xe": "no"})

    with serving(Other()) as address:
        page = visit(address).page
        ask(page, "Yes or no")
        expect(page.locator("#leak")).to_contain_text("The rationale does not leak")
        expect(page.locator("#help")).to_contain_text("it misleads")


def test_chart_and_counters_follow_the_answers(page: Page) -> None:
    wait_for_chart(page)
    given = page.locator("article dl div", has_text="Answers given").locator(".value")
    rows = page.locator("article dl div", has_text="In the window").locator(".value")
    expect(given).to_have_text("0")
    expect(rows).to_have_text("200")
    [[before, *_], _] = drawn(page, "y")
    for _ in range(3):
        ask(page, "Yes or no")
        expect(page.locator("#leak")).not_to_be_empty()
    expect(given).to_have_text("3")
    expect(rows).to_have_text("203")
    wait_until(page, f"{CHART}[2].y.at(-1) > 2.9")
    [traffic] = drawn(page, "y2")
    [las, alarm] = drawn(page, "y")
    assert traffic[-1] == pytest.approx(3)
    # Three more rows that only the rationale's reader predicts.
    assert las[-1] > before > 0 and alarm == [0.05, 0.05]
    shown = page.locator("article dl div", has_text="LAS").locator(".value")
    expect(shown).to_have_text(f"{las[-1]:.3f}")


def test_points_older_than_half_an_hour_leave_the_chart_and_traffic_is_of_the_last_minute(
    visit: Visiting,
) -> None:
    with serving(Scripted()) as address:
        page = visit(address, clock=True).page
        wait_for_chart(page)
        ask(page, "Yes or no")
        page.clock.run_for(2000)
        wait_until(page, f"{CHART}[2].y.at(-1) > 0.9")
        for index in range(20):
            num_polled = page.evaluate(f"{CHART}[1].x.length")
            page.clock.fast_forward(2 * MINUTE_MS)
            wait_for_chart(page, num_polled + 1 if index < 14 else 15)
        wait_until(page, f"{CHART}[1].x.length <= 17")
        x = page.evaluate(f"{CHART}[1].x.map((at) => +at)")
        assert x[-1] - x[0] <= 30 * MINUTE_MS
        assert drawn(page, "y2")[0][-1] == 0


def test_las_that_is_undefined_says_why_and_an_alarm_and_a_silent_simulator_are_named(
    visit: Visiting,
) -> None:
    backend = Scripted(("good", "new"), alarm_below=0.9)
    backend.windows.windows["new"].rows.clear()
    backend.windows.missed("good")
    with serving(backend) as address:
        page = visit(address).page
        expect(page.locator("article", has_text="new")).to_contain_text("No LAS yet: no rows.")
        expect(page.locator("#live-note")).to_contain_text("Alarm: LAS of good is below 0.9.")
        expect(page.locator("#live-note")).to_contain_text("The simulator of good has not answered since")
        wait_for_chart(page)


def test_the_counterfactual_switch_shows_whether_the_answer_follows_an_edited_rationale(page: Page) -> None:
    ask(page, "Multiple choice")
    switch(page, "Look: the wheel spins faster.")
    expect(page.locator("#switched-answer")).to_have_text("the wheel spins faster")
    expect(page.locator("#follows")).to_contain_text("The answer follows: “the air in it expands”")
    switch(page, "Bananas are yellow.")
    expect(page.locator("#follows")).to_contain_text("The answer stays: “the air in it expands”")
    page.get_by_role("button", name="Restore").click()
    page.get_by_role("button", name=SWITCH).click()
    expect(page.locator("#follows")).to_contain_text("The rationale is the student's own")


def test_everything_can_be_done_with_the_keyboard_alone(page: Page) -> None:
    keyboard = page.keyboard

    def tab_to(name: str) -> None:
        for _ in range(30):
            keyboard.press("Tab")
            if page.evaluate(LABEL_OF_FOCUSED) == name:
                return
        raise AssertionError(f"Tab does not reach {name!r}")

    tab_to("Yes or no")
    for _ in range(2):
        keyboard.press("ArrowDown")
    tab_to("Question")
    keyboard.type("Why is the sky dark at night?")
    tab_to("Choices, one per line")
    keyboard.type("the Sun is below the horizon\nclouds")
    keyboard.press("Control+Enter")
    expect(page.locator("#answer")).to_have_text("the Sun is below the horizon")
    expect(page.locator("#leak")).not_to_be_empty()
    tab_to("Rationale")
    keyboard.press("Control+A")
    keyboard.type("It is clouds that hide the light.")
    tab_to(SWITCH)
    keyboard.press("Enter")
    expect(page.locator("#switched-answer")).to_have_text("clouds")
    keyboard.press("Shift+Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


LABEL_OF_FOCUSED = """(() => {
    const focused = document.activeElement;
    return (focused.labels?.[0] ?? focused).textContent.trim();
})()"""


def test_a_wrong_key_shows_an_error_and_the_key_field_and_the_right_one_is_kept(visit: Visiting) -> None:
    with serving(Scripted(), "right-key") as address:
        page = visit(address).page
        key = page.get_by_label("Key of this service")
        expect(key).to_be_focused()
        expect(page.locator("#key-note")).to_have_text("This service needs an API key.")
        key.fill("wrong-key")
        page.get_by_role("button", name="Use key").click()
        expect(page.locator("#key-note")).to_have_text("The service does not accept this key.")
        ask(page, "Yes or no")
        expect(page.locator("#ask-note")).to_have_text("Wrong or missing API key.")
        expect(key).to_be_focused()
        key.fill("right-key")
        key.press("Enter")
        wait_for_chart(page)
        ask(page, "Yes or no")
        expect(page.locator("#answer")).to_have_text("yes")
        page.reload()
        wait_for_chart(page)
        expect(key).to_be_hidden()


@pytest.mark.parametrize(
    ("problem", "shown"),
    [
        ({"status": 429, "headers": {"Retry-After": "7"}}, "Too much. Wait 7 s."),
        ({"status": 503, "headers": {"Retry-After": "1"}}, "Too much. Wait 1 s."),
        ({"status": 422}, "Too much."),
    ],
)
def test_errors_are_shown_in_place_with_when_to_try_again(page: Page, problem: Any, shown: str) -> None:
    page.route(
        "**/v1/answer", lambda route: route.fulfill(**problem, json={"error": {"message": "too much"}})
    )
    ask(page, "Yes or no")
    expect(page.locator("#ask-note")).to_have_text(shown)
    expect(page.locator("#ask-note")).to_have_attribute("role", "alert")


def test_a_service_that_cannot_be_reached_is_said_and_tried_again(page: Page) -> None:
    wait_for_chart(page)
    page.route("**/v1/las/live", lambda route: route.abort())
    expect(page.locator("#live-note")).to_contain_text("The service cannot be reached.")
    page.unroute("**/v1/las/live")
    expect(page.locator("#live-note")).to_be_empty()


def test_a_newer_question_supersedes_one_that_is_still_under_way(visit: Visiting) -> None:
    released = threading.Event()

    class Slow(Scripted):
        async def answer(self, model: str, pair: QAPair, rationale: str | None) -> Reply:
            if pair.task == "yes_no":
                await asyncio.to_thread(released.wait, 60)
            return await super().answer(model, pair, rationale)

    with serving(Slow()) as address:
        page = visit(address).page
        try:
            ask(page, "Yes or no")
            expect(page.locator("#ask-status")).to_have_text("The student is answering …")
            with page.expect_event("requestfailed") as failed:
                ask(page, "True or false")
            assert '"yes_no"' in (failed.value.post_data or "")
        finally:
            released.set()
        expect(page.locator("#leak")).not_to_be_empty()
        expect(page.locator("#answer")).to_have_text("true")
        expect(page.locator("#ask-status")).to_be_empty()
        expect(page.locator("#ask-note")).to_be_empty()


def test_markup_in_a_models_text_is_shown_as_text(visit: Visiting) -> None:
    backend = Scripted()
    backend.rationale = markup = '<img src=x onerror="document.title=1"><b>bold</b>'
    with serving(backend) as address:
        seen = visit(address)
        ask(seen.page, "Multiple choice", "<i>Why?</i>", ("<script>alert(1)</script>", "<u>b</u>"))
        expect(seen.page.locator("#rationale")).to_have_text(markup)
        expect(seen.page.locator("#asked")).to_have_text("<i>Why?</i>")
        expect(seen.page.locator("#answer")).to_have_text("<script>alert(1)</script>")
        expect(seen.page.locator("#predictions")).to_contain_text("<u>b</u>")
        switch(seen.page, "<u>b</u> it is")
        expect(seen.page.locator("#follows")).to_contain_text("“<u>b</u>” after this one")
        assert seen.page.locator("main :is(img, b, i, u, script)").count() == 0 and not seen.errors
    scripts = "".join(WEB.joinpath(name).read_text("utf-8") for name in MODULES)
    assert not any(name in scripts for name in ("innerHTML", "outerHTML", "insertAdjacentHTML", "eval("))


@pytest.mark.parametrize(
    ("label", "body"),
    [
        ("Yes or no", {"task": "yes_no", "question": "Why?"}),
        ("True or false", {"task": "true_false", "question": "Why?"}),
        ("Multiple choice", {"task": "multiple_choice", "question": "Why?", "choices": ["a", "b c"]}),
        ("Open", {"task": "open", "question": "Why?"}),
    ],
)
def test_each_task_format_sends_its_body(visit: Visiting, label: str, body: dict[str, Any]) -> None:
    backend = Scripted()
    with serving(backend) as address:
        seen = visit(address)
        lines = (" a", "", "b c ") if "choices" in body else ()
        ask(seen.page, label, " Why? ", lines)
        expect(seen.page.locator("#leak")).not_to_be_empty()
        answer = seen.page.locator("#answer").inner_text()
        assert seen.bodies("/v1/answer") == [body]
        told = {"rationale": backend.rationale, "answer": answer}
        assert seen.bodies("/v1/simulate") == [body | told]
        switch(seen.page, "Otherwise.")
        expect(seen.page.locator("#follows")).not_to_be_empty()
        edited = {"model": "student", "rationale": "Otherwise."}
        assert seen.bodies("/v1/answer")[1:] == [body | edited]


def test_of_several_versions_the_chosen_one_answers(visit: Visiting) -> None:
    with serving(Scripted(("first", "second"))) as address:
        seen = visit(address)
        seen.page.get_by_label("Student version").select_option("second")
        ask(seen.page, "Open")
        expect(seen.page.locator("#answer-how")).to_contain_text("second")
        assert seen.bodies("/v1/answer")[0]["model"] == "second"


def test_a_whole_visit_has_no_errors_breaks_no_policy_and_asks_no_other_host(visit: Visiting) -> None:
    with serving(Scripted(("first", "second"))) as address:
        seen = visit(address)
        page = seen.page
        response = page.request.get("/")
        assert "default-src 'self'" in response.headers["content-security-policy"]
        assert response.headers["x-content-type-options"] == "nosniff"
        assert all(
            path.startswith("/v1/") or "z" in path
            for path in page.request.get("/openapi.json").json()["paths"]
        )
        for task in ("Yes or no", "True or false", "Multiple choice", "Open"):
            ask(page, task)
            expect(page.locator("#leak")).not_to_be_empty()
            switch(page, "Because of something else.")
            expect(page.locator("#follows")).not_to_be_empty()
        wait_for_chart(page, 2)
        page.locator("#chart").hover()
        assert (seen.errors, seen.hosts()) == ([], {urlsplit(address).netloc})


def test_long_words_do_not_scroll_sideways_at_400_pixels(visit: Visiting) -> None:
    backend = Scripted(("v" * 60,))
    backend.rationale = word = "rationale" * 40
    with serving(backend) as address:
        page = visit(address, viewport={"width": 400, "height": 800}).page
        ask(page, "Multiple choice", word, (word, word[::-1]))
        expect(page.locator("#leak")).not_to_be_empty()
        switch(page, word[::-1])
        expect(page.locator("#follows")).not_to_be_empty()
        wait_for_chart(page)
        assert page.evaluate("document.documentElement.scrollWidth") == 400


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("light", {"viewport": {"width": 1280, "height": 900}}),
        ("dark", {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"}),
        ("narrow", {"viewport": {"width": 400, "height": 800}}),
    ],
)
def test_nothing_scrolls_sideways_in_light_dark_and_narrow_and_screenshots_are_kept(
    visit: Visiting, name: str, options: dict[str, Any]
) -> None:
    versions = ("student",) if name == "narrow" else ("contrast-wrong", "greedy")
    with serving(Scripted(versions)) as address:
        page = visit(address, clock=True, **options).page
        wait_for_chart(page)
        for minute in range(6):
            ask(page, "Multiple choice")
            expect(page.locator("#leak")).not_to_be_empty()
            page.clock.fast_forward(MINUTE_MS // 2)
            wait_for_chart(page, minute + 2)
        switch(page, "Rubber is stiff when dry, so the rubber shrinks.")
        expect(page.locator("#follows")).to_contain_text("follows")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.evaluate("scrollTo(0, 0)")
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"page-{name}.png", full_page=True)
