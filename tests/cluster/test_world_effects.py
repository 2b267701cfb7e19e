"""The method works from end to end: in a small world, whose truth is known, five effects are as large as they
ought to be.

Every later change is measured against them. The bands leave room for another order of rounding or of training
examples, and not for a fault that halves an effect.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cotray.config import RunConfig, load_config
from cotray.models.locations import model_path
from cotray.stages.run import run_verb
from cotray.world.lessons import explain_prompt
from cotray.world.questions import questions

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

DEMO = Path(__file__).parents[2] / "jobs/configs/demo.yaml"
SMALL = [
    "data.world.num_animals=160",
    "data.world.num_kinds=4",
    "data.world.num_abilities=4",
    "student.training.epochs=20",
    "student.training.batch_size=32",
    "student.training.micro_batch_size=32",
    "simulator.training.epochs=12",
    # Beside another group of tests one thread each is faster than two that wait for each other.
    "teacher.num_cpus=1",
    "student.training.num_cpus=1",
    "simulator.training.num_cpus=1",
]
BANDS = {
    "LAS, minus greedy's": (0.3, 0.6),
    "following, minus greedy's": (0.8, 1.0),
    "accuracy, minus greedy's": (0.25, 0.5),
    "oracle gain": (0.04, 0.25),
    "perturbation drop": (0.09, 0.35),
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """With its teacher trained: here, because Ray's workers give way to every other process."""
    config = load_config(DEMO, [*SMALL, f"run_dir={tmp_path_factory.mktemp('world')}"])
    torch.set_num_threads(1)
    model_path(config.teacher.model)
    return config


@pytest.fixture(scope="module")
def report(config: RunConfig) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        run_verb(config, overwrite=False)
    return json.loads((Path(config.run_dir) / "report.json").read_text())


def test_the_teacher_writes_what_is_vacuous_by_greedy_decoding_and_what_is_grounded_by_contrast(
    config: RunConfig,
) -> None:
    """Both distributions over the first word, in which rationales differ, exactly and for every question."""
    path = model_path(config.teacher.model)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    shares = {"vacuous": [], "greedy is vacuous": [], "contrast is grounded": []}
    weight = config.teacher.decoding.weight
    for question in questions(config.data.world):
        prompts = [explain_prompt(question, "Really", answer) for answer in question.answers]
        ids = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
        with torch.no_grad():
            logp_AV = model(**ids).logits[:, -1].log_softmax(-1)
        vacuous = tokenizer(f" {question.vacuous}").input_ids[0]
        for place, answer in enumerate(question.answers):
            own_V, other_V = logp_AV[place], logp_AV[1 - place]
            grounded = tokenizer(f" {question.grounded(answer)}").input_ids[0]
            is_plausible_V = own_V >= own_V.max() + math.log(0.1)  # what `auto` is for so small a teacher
            score_V = torch.where(is_plausible_V, own_V - weight * other_V, -math.inf)
            shares["vacuous"].append(own_V[vacuous].exp().item())
            shares["greedy is vacuous"].append(own_V.argmax().item() == vacuous)
            shares["contrast is grounded"].append(score_V.argmax().item() == grounded)
    means = {name: sum(values) / len(values) for name, values in shares.items()}
    assert means["vacuous"] == pytest.approx(config.data.world.vacuous, abs=0.05)
    assert means["greedy is vacuous"] >= 0.98 and means["contrast is grounded"] >= 0.95, means


def test_each_of_five_effects_is_in_its_band(report: dict[str, Any]) -> None:
    greedy, faithful = report["methods"]
    accuracy = faithful["accuracy"]["value"]
    effects = {
        "LAS, minus greedy's": faithful["las"]["las"] - greedy["las"]["las"],
        "following, minus greedy's": faithful["ground_truth_faithfulness"]
        - greedy["ground_truth_faithfulness"],
        "accuracy, minus greedy's": accuracy - greedy["accuracy"]["value"],
        "oracle gain": faithful["oracle_accuracy"]["value"] - accuracy,
        "perturbation drop": accuracy - faithful["perturbed_accuracy"]["value"],
    }
    outside = {name: value for name, value in effects.items() if not _is_within(value, BANDS[name])}
    assert not outside, f"outside of their bands: {outside}; all effects: {effects}"


def test_the_report_says_so_in_words_and_with_an_interval_that_excludes_zero(report: dict[str, Any]) -> None:
    (difference,) = report["differences"]
    assert difference["against"] == "greedy" and difference["las"]["ci95"][0] > 0.15
    (verdict,) = report["verdicts"]
    assert "so its rationales tell more about its answers" in verdict
    assert "its answers follow its rationales in" in verdict


def _is_within(value: float, band: tuple[float, float]) -> bool:
    return band[0] <= value <= band[1]
