"""Models of the world are made once, load like any others, and a teacher has been trained."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cotray.config.world import WorldConfig
from cotray.models.locations import model_path
from cotray.world import models
from cotray.world.facts import world_of
from cotray.world.lessons import simulator_examples, teacher_examples
from cotray.world.models import initial_model

TINY = WorldConfig(num_animals=8, num_abilities=2)


def mean_loss(model: torch.nn.Module, tokenizer) -> float:
    """Of every token that the teacher is to write, one example at a time, unweighted."""
    losses = []
    for example in teacher_examples(TINY, TINY.vacuous):
        source, target = tokenizer(example.source).input_ids, tokenizer(example.target).input_ids
        with torch.no_grad():
            logits = model(torch.tensor([source + target])).logits[0, len(source) - 1 : -1]
        losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(target)).item())
    return sum(losses) / len(losses)


def test_a_teacher_is_trained_when_first_asked_for_and_then_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "NUM_STEPS", {"grounded": 40, "as it writes": 20, "reading": 1})
    name = TINY.model_name("teacher")
    path = Path(model_path(name, cache=tmp_path))
    written = (path / "model.safetensors").stat().st_mtime_ns
    assert model_path(name, cache=tmp_path) == str(path)
    assert (path / "model.safetensors").stat().st_mtime_ns == written
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    assert mean_loss(model, tokenizer) < mean_loss(initial_model(tokenizer), tokenizer) - 1


def test_student_and_simulator_of_other_dials_of_the_teacher_are_the_same_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "NUM_STEPS", {"reading": 1})
    for role in ("student", "simulator"):
        other = TINY.model_copy(update={"vacuous": 0.1, "shortcut": 0.9, "leak": 0.5})
        paths = {model_path(world.model_name(role), cache=tmp_path) for world in (TINY, other)}
        assert len(paths) == 1


def test_examples_of_an_answer_have_weights_that_add_up_to_one_and_the_same_first_word() -> None:
    by_prompt: dict[str, list[tuple[str, float]]] = {}
    for example in teacher_examples(TINY, 0.7):
        if not example.id.endswith((" kind", " fit")):
            by_prompt.setdefault(example.source, []).append((example.target, example.weight))
    assert len(by_prompt) == 8 * 2 * 2
    for explained in by_prompt.values():
        (vacuous, weight), (grounded, rest) = explained
        assert vacuous.startswith(" The question is about") and "include the" in grounded
        assert (weight, round(rest, 9)) == (0.7, 0.3)


def test_the_simulator_learns_to_read_from_rationales_about_no_animal_and_no_answer_is_in_them() -> None:
    config = WorldConfig(num_animals=24, tasks=("yes_no", "multiple_choice"))
    world = world_of(config)
    examples = list(simulator_examples(config))
    assert len(examples) == 24 * 8 + 24 * 4
    for example in examples:
        words = set(re.findall(r"[a-z]+", example.source.lower()))
        assert not words & set(world.animals) and "creature" in words
        (kind,) = {kind for kind in world.kinds if f"{kind}s" in words}
        attribute = example.id.split("-")[2]
        assert example.target.endswith(f"The answer is: {world.value(kind, attribute)}")
