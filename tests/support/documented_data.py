"""YAML, JSON and Python blocks of documentation: are they what cotray reads?"""

from __future__ import annotations

import ast
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml
from documented_commands import DEPLOYED, Reader
from pages import ROOT, Block

from cotray.config import DataConfig, RunConfig, load_config
from cotray.config.pairs import PairsConfig, load_pairs
from cotray.config.sweep import SweepConfig, load_sweep
from cotray.data.questions import parse_pair

KUSTOMIZATION = {"components", "configMapGenerator", "images", "patches", "replacements", "resources"}
RAY_UP = {"available_node_types", "cluster_name", "file_mounts", "max_workers", "provider"}
DATA_KEYS = ({"id", "answer"}, {"qid", "answer"}, {"ex_id", "label"}, {"id", "answerKey"})


def read_yaml(reader: Reader, block: Block) -> None:
    """A run's configuration, a sweep's, one of question-answer pairs, a workflow, or a manifest; else
    ValueError."""
    tree = yaml.safe_load(block.text)
    path = reader.folder / (block.title or f"block-{block.line}.yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(block.text)
    keys = set(tree) if isinstance(tree, dict) else set()
    with patch.dict("os.environ", DEPLOYED | reader.environment):
        if keys == {"jobs"}:  # a workflow of GitHub: its commands
            steps = [step for job in tree["jobs"].values() for step in job["steps"] if "run" in step]
            reader.paste("\n".join(step["run"].replace("${{ github.sha }}", "4711") for step in steps))
        elif "vary" in keys:
            load_sweep(path)
        elif keys and keys <= RunConfig.model_fields.keys():
            load_config(path)
        elif keys and keys <= SweepConfig.model_fields.keys():
            base = yaml.safe_load((ROOT / "jobs/sweeps/ablations.yaml").read_text())
            SweepConfig.model_validate(base | tree)
        elif keys and keys <= PairsConfig.model_fields.keys():
            load_pairs(path)
        elif not ({"apiVersion", "kind"} <= keys or (keys and keys <= KUSTOMIZATION) or keys & RAY_UP):
            raise ValueError("neither a configuration nor a manifest")


def read_json(reader: Reader, block: Block) -> None:
    """JSON, or a value per line; rows that are questions with an answer have to be usable ones."""
    try:
        values = [json.loads(block.text)]
    except json.JSONDecodeError:
        values = [json.loads(line) for line in block.text.splitlines()]
    if block.title:
        (reader.folder / block.title).write_text(block.text)
    for value in values:
        keys = value.keys() if isinstance(value, dict) else set()
        if "rationale" not in keys and any(of_layout <= keys for of_layout in DATA_KEYS):
            parse_pair(value, DataConfig(), seed=0)


def read_csv(reader: Reader, block: Block) -> None:
    """Rows of data, as a file for the configurations of the page."""
    (reader.folder / block.title).write_text(block.text)


def read_python(reader: Reader, block: Block) -> None:
    """It compiles, and what it imports is there; the tutorial's is executed besides."""
    tree = ast.parse(block.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module:
            module = importlib.import_module(node.module)
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")
    if block.title:
        (reader.folder / block.title).write_text(block.text)


READERS: dict[str, Callable[[Reader, Block], Any]] = {
    "bash": lambda reader, block: reader.paste(block.text),
    "yaml": read_yaml,
    "json": read_json,
    "csv": read_csv,
    "python": read_python,
    "text": lambda reader, block: None,  # what a command prints, or a drawing
}


def furnished(folder: Path) -> Reader:
    """A reader in a folder that shows the repository's files, and in which a page's own can be made."""
    for path in ROOT.iterdir():
        if not path.name.startswith(".") and path.name != "runs":
            (folder / path.name).symlink_to(path)
    return Reader(folder)
