"""Imports run one way: jobs -> stages -> teacher | training | scoring | data -> prompts -> records."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "cotray").rglob("*.py"))
BASE = {
    "records",
    "config",
    "config_types",
    "config_assessing",
    "config_conseq",
    "config_pairs",
    "config_serving",
    "config_sweep",
    "configfile",
    "errors",
    "seeds",
}
ALLOWED = {
    **dict.fromkeys(BASE, BASE),
    "attention": BASE,
    "linear": BASE,
    "models": BASE | {"attention", "linear", "data"},
    "sequences": BASE,
    "draws": BASE,
    "prompts": BASE,
    "data": BASE | {"prompts"},
    "teacher": BASE | {"prompts", "models", "draws"},
    "training": BASE | {"prompts", "models", "sequences"},
    "scoring": BASE | {"prompts", "models", "sequences", "draws"},
    "serving": BASE | {"prompts", "scoring"},
    "report": BASE | {"data"},
    "criteria": BASE | {"prompts", "data", "scoring"},
    "planning": BASE | {"data", "report"},
    "stages": BASE | {"data", "prompts", "teacher", "training", "scoring", "models", "report", "serving"},
    "cli": BASE | {"stages", "report", "data"},
}


def imports_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text("utf-8"))
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            if node.module == "cotray.stages":
                names |= {f"cotray.stages.{alias.name}" for alias in node.names}
    return names


def part_of(path: Path) -> str:
    return path.relative_to(ROOT / "cotray").parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_module_imports_only_what_lies_below_it(path: Path) -> None:
    part = part_of(path)
    if part == "__init__":
        return
    for name in imports_of(path):
        if name.startswith("cotray."):
            imported = name.split(".")[1]
            assert imported == part or imported in ALLOWED[part], f"{path} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_stages_import_ray_and_only_engines_vllm(path: Path) -> None:
    has_ray = any(name == "ray" or name.startswith("ray.") for name in imports_of(path))
    assert not has_ray or part_of(path) == "stages"
    has_vllm = any(name.split(".")[0] == "vllm" for name in imports_of(path))
    assert not has_vllm or path.name in ("vllm_engine.py", "vllm_student.py")


def test_files_and_functions_stay_readable() -> None:
    for path in [*FILES, *(ROOT / "jobs").glob("*.py")]:
        assert len(path.read_text("utf-8").splitlines()) <= 350, path
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 80, (path, node.name)
