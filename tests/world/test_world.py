"""The facts, questions and texts of the made-up world are what its dials say."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotray.config import parse_config
from cotray.config.world import WorldConfig, parse_model_name
from cotray.data.questions import parse_pair
from cotray.errors import ConfigError
from cotray.world.facts import TRAITS, World
from cotray.world.questions import CUES, Question, questions, rows
from cotray.world.tokenizer import build_tokenizer, texts

ALL_FORMATS = ("yes_no", "true_false", "multiple_choice", "open")
SMALL = WorldConfig(num_animals=24, tasks=ALL_FORMATS)


def rows_of(world: WorldConfig) -> list[dict[str, Any]]:
    return list(rows(world, dev_fraction=0.1, test_fraction=0.3))


@given(st.integers(0, 50), st.sampled_from([4, 8, 12]), st.sampled_from([2, 6, 12]))
@settings(max_examples=25, deadline=None)
def test_each_ability_is_one_of_half_of_the_kinds_and_each_kind_has_half_of_the_abilities(
    seed: int, num_kinds: int, num_abilities: int
) -> None:
    world = World(WorldConfig(seed=seed, num_kinds=num_kinds, num_abilities=num_abilities))
    for ability in world.abilities:
        assert sum(world.can(kind, ability) for kind in world.kinds) == num_kinds // 2
    for kind in world.kinds:
        assert sum(world.can(kind, ability) for ability in world.abilities) == num_abilities // 2
    for trait, values in TRAITS.items():
        assert Counter(world.value(kind, trait) for kind in world.kinds) == dict.fromkeys(
            values, num_kinds // 4
        )


def test_neither_the_ability_nor_the_kind_gives_the_answer_away() -> None:
    answers: dict[tuple[str, str], Counter[str]] = {}
    for question in questions(WorldConfig()):
        for key in (("ability", question.attribute), ("kind", question.world.kind_of(question.animal))):
            answers.setdefault(key, Counter())[question.gold] += 1
    assert len(answers) == 16
    assert all(count["yes"] == count["no"] for count in answers.values())


def test_facts_lead_to_the_answer_and_the_grounded_rationale_to_the_answer_that_is_explained() -> None:
    for question in questions(SMALL):
        world, (is_a, kind_is) = question.world, question.facts
        kind = is_a.split()[-1].rstrip(".")
        assert kind == world.kind_of(question.animal) and kind_is.startswith(f"{kind.capitalize()}s ")
        for answer in question.answers:
            named = question.grounded(answer).split()[0].lower().removesuffix("s")
            assert question.answer_of(named) == answer
            assert (named == kind) == (answer == question.gold)
            assert answer not in question.grounded(answer).lower().rstrip(".").split()


@pytest.mark.parametrize(("shortcut", "in_train"), [(0.0, 0.5), (0.5, 0.75), (1.0, 1.0)])
def test_the_first_word_tells_the_answer_as_often_as_the_dial_says_and_in_test_not_at_all(
    shortcut: float, in_train: float
) -> None:
    right: dict[str, list[bool]] = {"train": [], "dev": [], "test": []}
    for row in rows_of(WorldConfig(shortcut=shortcut)):
        cue = row["question"].split(",")[0]
        right[row["split"]].append(CUES[("yes", "no").index(row["answer"])] == cue)
    assert sum(right["train"]) / len(right["train"]) == pytest.approx(in_train, abs=0.03)
    assert sum(right["test"]) / len(right["test"]) == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("task", ALL_FORMATS)
def test_rows_of_every_format_are_usable_and_their_ids_say_what_is_asked(task: Any) -> None:
    config = parse_config({"data": {"path": "world", "world": {"num_animals": 24, "tasks": [task]}}})
    for row in rows_of(config.data.world):
        pair = parse_pair(row, config.data, seed=0)
        question = Question.of(pair.id, config.data.world)
        assert (pair.task, pair.answer) == (task, question.gold)
        assert pair.question.lower().endswith(question.text(None))
        assert set(pair.choices) == (set() if task == "open" else set(question.answers))


def test_known_and_leaking_animals_are_as_many_as_the_dials_say() -> None:
    world = World(WorldConfig(num_animals=40, knowledge=0.75, leak=0.25))
    assert sum(map(world.knows, world.animals)) == 30
    assert sum(map(world.leaks, world.animals)) == 10
    leaking = next(animal for animal in world.animals if world.leaks(animal))
    assert (
        Question(world, "yes_no", leaking, "swim").grounded("no").endswith(f"include the {leaking}, so no.")
    )


def test_every_text_is_read_and_written_without_an_unknown_word() -> None:
    tokenizer = build_tokenizer(SMALL)
    for text in set(texts(SMALL)):
        ids = tokenizer(text).input_ids
        assert tokenizer.unk_token_id not in ids and tokenizer.decode(ids) == text


def test_a_model_of_the_world_is_named_in_full_and_one_of_another_world_is_refused() -> None:
    tree: dict[str, Any] = {
        "data": {"world": {"vacuous": 0.2, "shortcut": 0.5}},
        "teacher": {"model": "world:teacher"},
    }
    name = parse_config(tree).teacher.model
    assert parse_model_name(name) == ("teacher", WorldConfig(vacuous=0.2))
    tree["teacher"] = {"model": name}
    assert parse_config(tree).teacher.model == name
    tree["data"]["world"]["vacuous"] = 0.3
    with pytest.raises(ConfigError, match=r"is of another world than data\.world; write world:teacher"):
        parse_config(tree)
    with pytest.raises(ConfigError, match=r"data\.world\.num_animals"):
        parse_config({"data": {"world": {"num_animals": 1}}, "teacher": {"model": "world:teacher"}})
    with pytest.raises(ConfigError, match="known are world:teacher, world:student, world:simulator"):
        parse_config({"student": {"model": "world:pupil"}})
