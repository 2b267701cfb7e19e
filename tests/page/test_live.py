"""The page's live figures, which are of real windows."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect
from visits import (
    CHART,
    MINUTE_MS,
    Scripted,
    Visiting,
    ask,
    drawn,
    serving,
    wait_for_chart,
    wait_until,
)


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


def test_without_a_figure_the_axis_of_las_shows_what_las_can_be(visit: Visiting) -> None:
    backend = Scripted()
    for window in backend.windows.windows.values():
        window.rows.clear()
    with serving(backend) as address:
        page = visit(address).page
        wait_for_chart(page)
        assert page.evaluate("document.getElementById('chart').layout.yaxis.range") == [-1, 1]


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
