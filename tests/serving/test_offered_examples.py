"""Questions that the endpoint offers: those of the world, with a rationale for every answer."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from test_app import HEADERS, KEY, Scripted

from cotray.config.data import DataConfig
from cotray.config.serving import ServingConfig
from cotray.config.world import WorldConfig
from cotray.serving.app import create_app
from cotray.serving.examples import NUM_EXAMPLES, examples_of
from cotray.world.questions import questions, rows
from cotray.world.tokenizer import build_tokenizer

ALL_FORMATS = ("yes_no", "true_false", "multiple_choice", "open")


def of_world(**world: Any) -> DataConfig:
    return DataConfig(path="world", world=WorldConfig(**world))


def offered(data: DataConfig, headers: dict[str, str], *sent: dict[str, Any]) -> list[httpx.Response]:
    """The examples, and the answers to requests for an answer."""

    async def ask() -> list[httpx.Response]:
        app = create_app(Scripted(), ServingConfig(), [KEY], examples_of(data))
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://test", headers=headers
        ) as http:
            return [await http.get("/v1/examples"), *[await http.post("/v1/answer", json=b) for b in sent]]

    return asyncio.run(ask())


def test_examples_need_a_key_and_there_are_none_of_other_data() -> None:
    assert offered(of_world(), {})[0].status_code == 401
    [response] = offered(DataConfig(), HEADERS)
    assert (response.status_code, response.json()) == (200, {"examples": []})


@pytest.mark.parametrize("tasks", [("yes_no",), ("true_false", "open"), ALL_FORMATS])
def test_examples_are_test_questions_of_every_format_the_same_each_time(tasks: tuple[Any, ...]) -> None:
    data = of_world(tasks=tasks, num_animals=24)
    examples = examples_of(data)
    assert examples == examples_of(data) and len(examples) == NUM_EXAMPLES // len(tasks) * len(tasks)
    assert {example.task for example in examples} == set(tasks)
    made = rows(data.world, dev_fraction=data.dev_fraction, test_fraction=data.test_fraction)
    in_test = {row["question"] for row in made if row["split"] == "test"}
    assert {example.question for example in examples} <= in_test
    assert len({example.question for example in examples}) == len(examples)


def test_each_rationale_leads_to_its_answer_in_the_world() -> None:
    data = of_world(tasks=ALL_FORMATS, num_animals=24)
    by_text = {(q.task, q.text(None)): q for q in questions(data.world)}
    for example in examples_of(data):
        question = by_text[example.task, example.question.partition(", ")[2]]
        assert {given.answer for given in example.rationales} == set(question.answers)
        assert example.choices == ([given.answer for given in example.rationales] if example.choices else [])
        for given in example.rationales:
            kind = given.rationale.split()[0].lower().removesuffix("s")
            assert question.answer_of(kind) == given.answer


def test_students_of_the_world_know_every_word_and_answer_takes_each_example_as_it_is() -> None:
    data = of_world(tasks=ALL_FORMATS, num_animals=24)
    tokenizer = build_tokenizer(data.world)
    for example in examples_of(data):
        for text in (example.question, *(f" {given.rationale}" for given in example.rationales)):
            assert tokenizer.unk_token_id not in tokenizer(text).input_ids, text
    body = offered(data, HEADERS)[0].json()["examples"]
    sent = [
        {key: example[key] for key in ("question", "task", "choices")} | {"rationale": given["rationale"]}
        for example in body
        for given in example["rationales"]
    ]
    assert [response.status_code for response in offered(data, HEADERS, *sent)] == [200] * (len(sent) + 1)
