"""The page of all configuration keys is current, and every key says what it means."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, get_args

import pytest
import yaml
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from cotray.cli import job
from cotray.config import RunConfig, load_config
from cotray.config.examples import EXAMPLES
from cotray.config.pairs import PairsConfig
from cotray.config.reference import annotated, keys, page
from cotray.config.sweep import SweepConfig

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "jobs" / "configs").glob("*.yaml"))


MODELS: tuple[type[BaseModel], ...] = (RunConfig, SweepConfig, PairsConfig)


def field_of(model: type[BaseModel], path: str) -> FieldInfo:
    """The field that a key is, found by walking down from the model."""
    *parents, leaf = path.split(".")
    for name in parents:
        annotation = model.model_fields[name.removesuffix("[]")].annotation
        parts = (annotation, *get_args(annotation))
        model = next(part for part in parts if isinstance(part, type) and issubclass(part, BaseModel))
    return model.model_fields[leaf]


@pytest.mark.parametrize("model", MODELS)
def test_every_key_and_every_section_has_a_text(model: type[BaseModel]) -> None:
    assert [key.path for key in keys(model) if not key.text] == []


@pytest.mark.parametrize("model", MODELS)
def test_every_key_has_an_example_that_its_field_takes_and_that_is_not_the_default(
    model: type[BaseModel],
) -> None:
    for key in keys(model):
        if key.is_section:
            continue
        assert key.example, key.path
        field = field_of(model, key.path)
        value = yaml.safe_load(key.example)
        of_field: Any = Annotated[field.annotation, field]  # pyright: ignore[reportInvalidTypeForm]
        TypeAdapter(of_field).validate_python(value)
        assert key.default != f"`{json.dumps(value)}`", key.path


def test_no_example_is_of_a_key_that_is_gone() -> None:
    paths = [key.path for model in MODELS for key in keys(model)]
    assert [end for end in EXAMPLES if not any(f".{path}".endswith(f".{end}") for path in paths)] == []


@pytest.mark.parametrize(
    ("model", "path", "default"),
    [
        (RunConfig, "simulator.training.learning_rate", RunConfig().simulator.training.learning_rate),
        (RunConfig, "student.training.learning_rate", RunConfig().student.training.learning_rate),
        (RunConfig, "student.conseq.epochs", 2),
        (PairsConfig, "training.max_length", PairsConfig().training.max_length),
    ],
)
def test_defaults_are_those_of_the_keys_own_place(model: type[BaseModel], path: str, default: float) -> None:
    assert {key.path: key.default for key in keys(model)}[path] == f"`{json.dumps(default)}`"


def test_the_page_is_what_the_models_say() -> None:
    stored = (ROOT / "docs/reference/configuration.md").read_text(encoding="utf-8")
    assert stored == page(), "run: python -m cotray.config.reference > docs/reference/configuration.md"


def test_a_printed_configuration_is_read_back_to_the_same_values(tmp_path: Path) -> None:
    for path in CONFIGS:
        config = load_config(path)
        target = tmp_path / path.name
        target.write_text(annotated(config), encoding="utf-8")
        assert load_config(target) == config
        assert "# How tokens are chosen." in target.read_text(encoding="utf-8")


def test_print_config_prints_what_the_command_would_use_and_makes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    config = str(ROOT / "jobs" / "configs" / "smoke.yaml")
    assert job("generate", ["-c", config, "--print-config", f"run_dir={run_dir}", "seed=7"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["run_dir"], printed["seed"], printed["data"]["limit"]) == (str(run_dir), 7, 24)
    assert not run_dir.exists()
