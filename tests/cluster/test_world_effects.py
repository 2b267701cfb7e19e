"""The method works from end to end: in a small world, whose truth is known, five effects are as large as they
ought to be.

Every later change is measured against them. The bands leave room for another order of rounding or of training
examples, and not for a fault that halves an effect.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from cotray.config import load_config
from cotray.models.locations import model_path
from cotray.stages.run import run_verb

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
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("world")
    config = load_config(DEMO, [*SMALL, f"run_dir={folder}"])
    # Here, because Ray's workers give way to every other process; and on one thread, as above.
    torch.set_num_threads(1)
    model_path(config.teacher.model)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        run_verb(config, overwrite=False)
    return json.loads((folder / "report.json").read_text())


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
