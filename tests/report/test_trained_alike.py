"""Students of one report that were trained under different settings are told of, with the settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cotray.report.trained_alike import trained_otherwise
from cotray.storage.manifest import Manifest
from cotray.storage.run_folder import RunFolder


def run(
    root: Path, method: str, *, student: dict[str, Any], simulator: dict[str, Any]
) -> tuple[str, RunFolder]:
    folder = RunFolder(str(root / method))
    for stage, training in (("student", student), ("simulator", simulator)):
        # Methods differ in alpha by what they are.
        settings = {"model": "m", "alpha": 0.5 if "+" in method else 0.0, "training": training}
        folder.finish(Manifest(stage, settings, "", 1, 1, 0))
    return method, folder


def test_methods_that_differ_in_what_makes_them_methods_are_alike(tmp_path: Path) -> None:
    training = {"epochs": 2, "learning_rate": 1e-4}
    folders = [
        run(tmp_path, name, student=training, simulator=training)
        for name in ("greedy", "contrast+counterfactual")
    ]
    assert trained_otherwise(folders) == []
    assert trained_otherwise(folders[:1]) == []


def test_each_setting_that_differs_is_named_with_its_value_under_each_method(tmp_path: Path) -> None:
    folders = [
        run(tmp_path, "greedy", student={"epochs": 1, "lr": 3e-5}, simulator={"epochs": 1}),
        run(tmp_path, "contrast", student={"epochs": 4, "lr": 1e-4}, simulator={"epochs": 1}),
        run(tmp_path, "human", student={"epochs": 4, "lr": 1e-4}, simulator={"epochs": 3}),
    ]
    students, simulators = trained_otherwise(folders)
    assert students.startswith(
        "The students were not trained alike, so that their figures must not be compared: "
    )
    assert (
        "training.epochs 1 (greedy), 4 (contrast), 4 (human); training.lr 3e-05 (greedy), 0.0001" in students
    )
    assert "The simulators were not trained alike" in simulators
    assert "training.epochs 1 (greedy), 1 (contrast), 3 (human)" in simulators


def test_a_simulator_that_is_prompted_has_no_training_to_differ_in(tmp_path: Path) -> None:
    first = run(tmp_path, "greedy", student={"epochs": 1}, simulator={"epochs": 1})
    second = run(tmp_path, "contrast", student={"epochs": 1}, simulator={})
    assert trained_otherwise([first, second]) == []
