"""Wrong keys, errors, hostile and long texts, small and dark screens: the page says so and holds."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, expect
from visits import (
    MINUTE_MS,
    Scripted,
    Visiting,
    ask,
    serving,
    switch,
    wait_for_chart,
)

from cotray.inference.decoding import GREEDY, Decoding
from cotray.records import QAPair, Reply
from cotray.serving.web_page import MODULES, WEB

SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"


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
        async def answer(
            self, model: str, pair: QAPair, rationale: str | None, decoding: Decoding = GREEDY
        ) -> Reply:
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
        expect(page.locator("#follows")).to_contain_text("The answer turned")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.evaluate("scrollTo(0, 0)")
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"page-{name}.png", full_page=True)


def test_a_student_that_cannot_write_is_said_to_be_untrained(visit: Visiting) -> None:
    with serving(Scripted(), untrained={"student": "the student is <b>untrained</b>"}) as address:
        page = visit(address, viewport={"width": 390, "height": 800}).page
        expect(page.locator("#untrained")).to_have_text("student: the student is <b>untrained</b>.")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    with serving(Scripted()) as address:
        page = visit(address).page
        wait_for_chart(page)
        expect(page.locator("#untrained")).to_be_hidden()
