"""Asking the page in headless Chromium: answers, the counterfactual switch, formats, versions, keyboard."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page, expect
from visits import (
    SWITCH,
    Scripted,
    Visiting,
    ask,
    serving,
    switch,
)

from cotray.records import Simulation, StudentAnswer


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


def test_the_counterfactual_switch_shows_whether_the_answer_follows_an_edited_rationale(page: Page) -> None:
    ask(page, "Multiple choice")
    switch(page, "Look: the wheel spins faster.")
    expect(page.locator("#switched-answer")).to_have_text("the wheel spins faster")
    expect(page.locator("#follows")).to_contain_text("The answer turned: “the air in it expands”")
    switch(page, "Bananas are yellow.")
    expect(page.locator("#follows")).to_contain_text("The answer stayed the same: “the air in it expands”")
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
        told = {"model": "student", "rationale": backend.rationale, "answer": answer}
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
        expect(seen.page.locator("#leak")).not_to_be_empty()
        assert seen.bodies("/v1/answer")[0]["model"] == "second"
        assert seen.bodies("/v1/simulate")[0]["model"] == "second"  # by its own simulator
