"""report.html in a browser: on a phone and a desk, by mouse and by keyboard, in light and in dark."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page
from reports import SUMMARY, example, method_report

from cotray.report.html import render_html
from cotray.report.method_report import Example, MethodExample

METHODS = ("greedy", "contrast-empty", "contrast-wrong", "contrast-wrong+counterfactual")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page of four methods; the tokens that the hints are about are the last of long rationales."""
    one = example().methods[0]
    count = 24
    words = {"tokens": (" because",) * count, "greedy_tokens": (" since",) * count}
    names = ("grounded", "contrast", "greedy_grounded", "greedy_contrast")
    logprobs = {f"{name}_logprobs": (-1.25,) * count for name in names}
    sides = [
        MethodExample(name, replace(one.rationale, method=name, **words, **logprobs), one.simulation)
        for name in METHODS
    ]
    shown = Example("Is it so?", ["yes", "no"], "yes", "", sides)
    methods = [replace(method_report(name), ground_truth={"following": 0.5}) for name in METHODS]
    path: Path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render_html(SUMMARY, methods, [shown], verdicts=["greedy: a finding."]))
    return path.as_uri()


def opened(browser: Browser, address: str, width: int, **options) -> Page:
    page = browser.new_context(viewport={"width": width, "height": 800}, **options).new_page()
    page.goto(address)
    return page


HINT = """token => {
    const style = getComputedStyle(token, "::after");
    const around = token.closest(".rationale").getBoundingClientRect();
    return [style.content, around.left + parseFloat(style.left), parseFloat(style.width)];
}"""


@pytest.mark.parametrize("width", [390, 1280])
def test_no_hint_of_a_token_leaves_the_page(browser: Browser, address: str, width: int) -> None:
    page = opened(browser, address, width)
    for column in page.locator(".rationale").all():
        token = column.locator(".token").last
        token.hover()
        content, left, across = token.evaluate(HINT)
        assert "log p grounded -1.25" in content
        assert left >= 0 and left + across <= width
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.context.close()


@pytest.mark.parametrize("width", [390, 1200])
def test_every_figure_of_every_method_is_in_sight(browser: Browser, address: str, width: int) -> None:
    page = opened(browser, address, width)
    cells = page.locator("table.listed").first.locator("tbody td").all()
    boxes = [cell.bounding_box() for cell in cells]
    assert len(cells) == 11 * len(METHODS)
    assert all(box and box["x"] >= 0 and box["x"] + box["width"] <= width for box in boxes)
    names = [cell.get_attribute("data-name") for cell in cells[1:11]]
    heads = page.locator("table.listed").first.locator("thead th").all_text_contents()
    assert names == heads[1:], "on a phone each figure stands behind its column's name"
    page.context.close()


def test_the_keyboard_stops_once_per_rationale_and_opens_its_tokens(browser: Browser, address: str) -> None:
    page = opened(browser, address, 1280)
    page.locator("h2", has_text="Examples").click()
    for method in METHODS:
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        assert focused.evaluate("stop => stop.tagName") == "SUMMARY"
        side = page.locator(".side", has=focused)
        assert side.locator(".method").inner_text() == method
        page.keyboard.press("Enter")
        assert side.locator("tbody tr").count() == 24 and side.locator("tbody tr").first.is_visible()
    page.context.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_text_in_plots_is_at_least_ten_pixels_high(browser: Browser, address: str, width: int) -> None:
    page = opened(browser, address, width)
    sizes = page.evaluate(
        """() => [...document.querySelectorAll("svg text")].map((text) => {
            const { a, b } = text.getScreenCTM();
            return parseFloat(getComputedStyle(text).fontSize) * Math.hypot(a, b);
        })"""
    )
    assert len(sizes) > 20 and min(sizes) >= 10
    page.context.close()


def test_the_rationales_of_methods_stand_beside_each_other_where_there_is_room(
    browser: Browser, address: str
) -> None:
    wide, narrow = opened(browser, address, 1280), opened(browser, address, 390)
    tops = {}
    for name, page in (("wide", wide), ("narrow", narrow)):
        boxes = [side.bounding_box() for side in page.locator(".sides").first.locator(".side").all()]
        tops[name] = {box["y"] for box in boxes if box}
        page.context.close()
    assert (len(tops["wide"]), len(tops["narrow"])) == (1, 4)


def test_the_page_and_its_plots_are_light_on_dark_where_the_reader_has_it_so(
    browser: Browser, address: str
) -> None:
    page = opened(browser, address, 390, color_scheme="dark")
    colors = page.evaluate(
        """() => [getComputedStyle(document.body).backgroundColor,
                  getComputedStyle(document.querySelector("svg text")).fill]"""
    )
    paper, text = (sum(int(part) for part in color[4:-1].split(",")) / 3 for color in colors)
    assert paper < 50 and text > 200
    page.context.close()


def test_the_legend_of_losses_names_lines_of_training_and_dev_apart(browser: Browser, address: str) -> None:
    page = opened(browser, address, 390)
    losses = page.locator("section", has=page.get_by_role("heading", name="Student loss"))
    legend = losses.locator("[id^=legend]").first
    assert legend.locator("text").all_text_contents() == ["dev", "train", *METHODS]
    dashes = legend.locator("path[style*='currentColor'][style*='fill: none']")
    styles = [path.get_attribute("style") or "" for path in dashes.all()]
    assert ["stroke-dasharray" in style for style in styles] == [False, True]
    page.context.close()
