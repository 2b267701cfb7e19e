"""A row of every published layout becomes the question that it is."""

from __future__ import annotations

from importlib import resources

import pytest
from published import EXAMPLES

from cotray.config import DataConfig
from cotray.data.columns import UnusableRow
from cotray.data.layouts import layout_of, layouts
from cotray.data.questions import understand
from cotray.records import QAPair


def test_every_published_layout_has_an_example():
    files = resources.files("cotray.data").joinpath("published").iterdir()
    assert {file.name for file in files} == {f"{name}.yaml" for name in EXAMPLES}


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_row_is_recognised_by_its_columns_whatever_their_order(name: str):
    row = EXAMPLES[name].row
    assert layout_of(row) == layout_of(dict(reversed(row.items()))) == name


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_published_row_becomes_its_question(name: str):
    example = EXAMPLES[name]
    found = understand(example.row, DataConfig(), seed=42)
    pair = found.pair
    assert found.has_made_id == (not example.id)
    choices = tuple(sorted(pair.choices)) if layouts()[name].shuffle_choices else pair.choices
    assert (choices, found.layout) == (example.choices, name)
    assert pair == QAPair(
        id=example.id or pair.id,
        task=example.task,  # pyright: ignore[reportArgumentType]
        question=example.question,
        choices=pair.choices,
        answer=example.answer,
        split=example.split or pair.split,  # pyright: ignore[reportArgumentType]
        reference_rationale=example.rationale,
        facts=example.facts,
    )


def test_choices_of_data_with_the_right_one_in_one_place_are_put_in_an_order_drawn_by_the_id():
    orders = set()
    for n in range(40):
        row = EXAMPLES["sciq"].row | {"id": f"q{n}"}
        pair = understand(row, DataConfig(), seed=42).pair
        assert pair == understand(row, DataConfig(), seed=42).pair and pair.answer == "carbon dioxide"
        orders.add(pair.choices)
    assert len(orders) > 12  # of 24


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("snli", {"label": -1}),
        ("snli_jsonl", {"gold_label": "-"}),
        ("hellaswag", {"label": ""}),
        ("winogrande", {"answer": ""}),
        ("socialiqa", {"label": "4"}),
        ("medmcqa", {"cop": -1}),
        ("mmlu", {"answer": 4}),
    ],
)
def test_a_row_without_an_answer_is_refused_and_not_guessed(name: str, change: dict):
    with pytest.raises(UnusableRow, match=r"no answer among the choices|no label has|empty answer"):
        understand(EXAMPLES[name].row | change, DataConfig(), seed=42)
