"""Pages opened in headless Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect
from visits import Scripted, Visit, Visiting, serving


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
