"""Imports run one way, from the verbs down to the records, and never in a circle."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "cotray").rglob("*.py"))
BASE = {"records", "errors", "seeds", "config"}
"""What every folder may import."""
ALLOWED: dict[str, set[str]] = {
    "records": {"errors"},
    "errors": set(),
    "seeds": set(),
    "config": {"errors", "records"},
    "storage": BASE,
    "prompts": BASE,
    "models": BASE | {"storage"},
    "data": BASE | {"storage", "prompts", "world"},
    "teacher": BASE | {"prompts", "models", "inference"},
    "inference": BASE | {"prompts", "models", "storage"},
    "training": BASE | {"prompts", "models", "storage"},
    "tracking": BASE | {"storage"},
    "scoring": BASE | {"prompts", "models", "inference"},
    "world": BASE | {"prompts", "training", "scoring"},
    "probing": BASE | {"scoring", "world"},
    "quality": BASE | {"prompts", "models", "inference", "scoring"},
    "criteria": BASE | {"prompts", "storage", "scoring", "inference", "probing"},
    "report": BASE | {"storage", "scoring", "quality", "probing"},
    "export": BASE | {"storage", "prompts", "report"},
    "planning": BASE | {"data", "storage", "report"},
    "serving": BASE | {"prompts", "inference", "scoring", "world"},
    "pools": BASE | {"storage", "models", "training", "tracking"},
    "deployments": BASE | {"storage", "prompts", "inference", "scoring", "serving"},
    "stages": BASE
    | {"storage", "data", "prompts", "models", "teacher", "training", "inference", "scoring", "quality"}
    | {"report", "export", "pools", "deployments", "tracking", "world", "probing"},
    "__init__": {"api"},
    "api": BASE | {"storage", "data", "prompts", "teacher", "scoring"},
    "bench": BASE
    | {"storage", "data", "prompts", "models", "teacher", "training", "scoring", "quality", "report"}
    | {"planning", "pools", "deployments", "stages", "world"},
    "commands": BASE
    | {
        "storage",
        "data",
        "prompts",
        "inference",
        "criteria",
        "report",
        "export",
        "planning",
        "stages",
        "bench",
    },
    "cli": {"commands"},
}
"""Which folders the modules of a folder may import, beside their own."""
WITH_RAY = {"bench", "stages", "pools", "deployments"}


def imports_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text("utf-8"))
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
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


def test_no_folder_may_import_one_that_may_import_it() -> None:
    for part, below in ALLOWED.items():
        for lower in below - {part}:
            assert part not in ALLOWED[lower], f"{part} and {lower}"


def test_no_two_files_import_each_other_directly_or_through_others() -> None:
    names = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES}
    graph = {names[path]: imports_of(path) & set(names.values()) for path in FILES}
    # Whoever imports only files that are in no circle is in none.
    while free := [name for name, imported in graph.items() if not imported & graph.keys()]:
        for name in free:
            del graph[name]
    assert not graph, f"a circle among {sorted(graph)}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_ray_and_vllm_are_imported_only_where_they_belong(path: Path) -> None:
    has_ray = any(name == "ray" or name.startswith("ray.") for name in imports_of(path))
    assert not has_ray or part_of(path) in WITH_RAY
    has_vllm = any(name.split(".")[0] == "vllm" for name in imports_of(path))
    assert not has_vllm or path.name.startswith("vllm_")


def test_files_and_functions_stay_readable() -> None:
    for path in [*FILES, *(ROOT / "jobs").rglob("*.py")]:
        assert len(path.read_text("utf-8").splitlines()) <= 320, path
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 80, (path, node.name)


def test_the_names_that_other_programs_call_are_there() -> None:
    from cotray.config import load_config
    from cotray.scoring.las import las
    from cotray.stages.serve import build_app
    from cotray.teacher.contrastive import contrastive_scores

    assert all(map(callable, (load_config, las, build_app, contrastive_scores)))
