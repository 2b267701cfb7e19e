"""Questions of the made-up world: the page offers them, with the rationale of every answer in one click."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect
from visits import Scripted, Visit, Visiting, ask, serving, wait_for_chart

from cotray.config.data import DataConfig
from cotray.config.world import WorldConfig
from cotray.inference.decoding import GREEDY, Decoding
from cotray.records import QAPair, Reply
from cotray.serving.examples import examples_of
from cotray.serving.schema import Example
from cotray.world.questions import Question

WORLD = DataConfig(path="world", test_fraction=0.4, world=WorldConfig(tasks=("yes_no", "multiple_choice")))
EXAMPLES = examples_of(WORLD)


class OfTheWorld(Scripted):
    """`faithful` answers what follows from its rationale in the world; others always the first choice."""

    async def answer(
        self, model: str, pair: QAPair, rationale: str | None, decoding: Decoding = GREEDY
    ) -> Reply:
        question = question_of(pair)
        given = rationale or question.grounded(pair.choices[0])
        kind = given.split()[0].lower().removesuffix("s")
        reads = model == "faithful" and kind in question.world.kinds
        answer = question.answer_of(kind) if reads else pair.choices[0]
        logprobs = tuple(0.0 if choice == answer else -3.0 for choice in pair.choices)
        return Reply(f"{given} So the answer is {answer}", given, answer, True, logprobs, 5, 4)


def question_of(pair: QAPair) -> Question:
    """What is asked, from its text alone: `Really, can a dalo swim?`, `Surely, what colour is a dalo?`"""
    words = pair.question.rstrip("?").replace(",", "").split()
    if pair.task == "yes_no":
        return Question.of(f"yes_no-{words[-2]}-{words[-1]}", WORLD.world)
    attribute = {"colour": "colour", "does": "food" if words[-1] == "eat" else "home", "big": "size"}[
        words[2]
    ]
    animal = next(word for word in words if word in Question.of("open-x-x", WORLD.world).world.animals)
    return Question.of(f"multiple_choice-{animal}-{attribute}", WORLD.world)


@pytest.fixture
def both(visit: Visiting) -> Iterator[Visit]:
    """The page over a student that follows its rationale and one that does not."""
    with serving(OfTheWorld(("faithful", "greedy")), data=WORLD) as address:
        yield visit(address)


def ask_example(page: Page, question: str, version: str = "faithful") -> None:
    page.get_by_role("button", name=question).click()
    page.get_by_label("Student version").select_option(version)
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator("#leak")).not_to_be_empty()


def give(page: Page, answer: str) -> None:
    page.get_by_role("button", name=f"A rationale for “{answer}”").click()


def test_questions_of_the_world_fill_the_form_and_are_sent_as_they_are(both: Visit) -> None:
    chips = both.page.get_by_role("list", name="Examples").get_by_role("button")
    expect(chips).to_have_text([example.question for example in EXAMPLES])
    expect(both.page.get_by_role("button", name="Fill in an example")).to_be_hidden()
    for example in (EXAMPLES[-1], EXAMPLES[0]):
        ask_example(both.page, example.question)
    [chosen, plain] = both.bodies("/v1/answer")
    model = {"model": "faithful"}
    assert plain == {"task": "yes_no", "question": EXAMPLES[0].question} | model
    assert chosen == EXAMPLES[-1].model_dump(exclude={"rationales"}) | model
    assert not both.errors


@pytest.mark.parametrize("example", [EXAMPLES[0], EXAMPLES[-1]], ids=lambda example: example.task)
def test_one_click_gives_the_rationale_of_an_answer_and_says_whether_the_answer_turned(
    both: Visit, example: Example
) -> None:
    page, (own, *others) = both.page, example.choices
    aim, follows = page.locator("#aim"), page.locator("#follows")
    verdict = "The answer turned: “{}” after the student's own rationale, “{}” after this one."
    ask_example(page, example.question)
    for other in others:
        give(page, other)
        expect(follows).to_have_text(verdict.format(own, other))
        expect(aim).to_have_text(f"This is a rationale for “{other}”, and “{other}” is the answer.")
        expect(page.locator("#switched-answer")).to_have_text(other)
    ask_example(page, example.question, "greedy")
    expect(page.locator("#switched")).to_be_hidden()
    give(page, others[0])
    expect(follows).to_have_text(
        f"The answer stayed the same: “{own}”, as after the student's own rationale."
    )
    expect(aim).to_have_text(f"This is a rationale for “{others[0]}”, but “{own}” is the answer.")
    expect(page.get_by_role("textbox", name="Rationale")).to_have_value(example.rationales[1].rationale)


def test_versions_are_compared_side_by_side_after_the_same_rationale(both: Visit) -> None:
    page, example = both.page, EXAMPLES[0]
    ask_example(page, example.question, "greedy")
    give(page, "no")
    expect(page.locator("#follows")).not_to_be_empty()
    page.get_by_role("button", name="Compare the versions").click()
    expect(page.locator("#versions-compared tr")).to_have_text(
        ["faithfulyesnoturned", "greedyyesyesstayed the same"]
    )
    asked = both.bodies("/v1/answer")[2:]
    rationale = {"rationale": example.rationales[1].rationale}
    assert sorted((body["model"], body.get("rationale")) for body in asked if "rationale" in body) == [
        ("faithful", rationale["rationale"]),
        ("greedy", rationale["rationale"]),
    ]
    assert [body["model"] for body in asked if "rationale" not in body] == ["faithful"]
    give(page, "yes")
    expect(page.locator("#compared")).to_be_hidden()


def test_a_question_of_ones_own_has_no_rationales_to_give(both: Visit) -> None:
    page = both.page
    ask_example(page, EXAMPLES[0].question)
    expect(page.locator("#alternatives")).to_be_visible()
    cue, _, asked = EXAMPLES[0].question.partition(", ")
    page.get_by_label("Question").fill(f"{'Perhaps' if cue == 'Really' else 'Really'}, {asked}")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator("#asked")).not_to_have_text(EXAMPLES[0].question)
    expect(page.locator("#switch")).to_be_visible()
    expect(page.locator("#alternatives")).to_be_hidden()


def test_without_a_world_the_page_offers_its_own_example_of_each_format(page: Page) -> None:
    wait_for_chart(page)
    expect(page.locator("#offered-field")).to_be_hidden()
    ask(page, "Yes or no")
    expect(page.locator("#switch")).to_be_visible()
    expect(page.locator("#alternatives")).to_be_hidden()
    expect(page.get_by_role("button", name="Compare the versions")).to_be_hidden()


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_of_the_world_scrolls_sideways(visit: Visiting, width: int) -> None:
    with serving(OfTheWorld(("faithful", "v" * 60)), data=WORLD) as address:
        page = visit(address, viewport={"width": width, "height": 800}).page
        ask_example(page, EXAMPLES[-1].question)
        page.get_by_role("button", name="Compare the versions").click()
        expect(page.locator("#versions-compared tr")).to_have_count(2)
        assert page.evaluate("document.documentElement.scrollWidth") == width
