"""Configuration files: YAML, ${ENV}, `a.b=c` overrides, and validation problems in the user's words."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from cotray.errors import ConfigError

M = TypeVar("M", bound=BaseModel)


def read_tree(path: str | Path, overrides: Sequence[str]) -> dict[str, Any]:
    """The file's keys and values with overrides and environment variables put in.

    Raises ConfigError with one line that names the file or key and the way out.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file; see jobs/configs/ for some") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from None
    try:
        tree = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        where = " ".join(str(error).split())
        raise ConfigError(f"{path}: not valid YAML ({where})") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected keys and values, found {type(tree).__name__}")
    for override in overrides:
        _apply_override(tree, override)
    return _with_environment(tree, str(path))


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"'{override}': an override is written KEY=VALUE, such as data.limit=48")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    *parents, leaf = key.split(".")
    for name in parents:
        tree[name] = tree.get(name) or {}
        tree = tree[name]
        if not isinstance(tree, dict):
            raise ConfigError(f"'{override}': {name} is a value, not a section")
    tree[leaf] = value


def _with_environment(node: Any, source: str) -> Any:
    if isinstance(node, dict):
        return {key: _with_environment(value, source) for key, value in node.items()}
    if isinstance(node, list):
        return [_with_environment(value, source) for value in node]
    if not isinstance(node, str) or "${" not in node:
        return node

    def replace(match: re.Match[str]) -> str:
        name, default = match.group(1), match.group(2)
        value = os.environ.get(name, default)
        if value is None:
            raise ConfigError(
                f"{source}: environment variable {name} is not set; set it or write ${{{name}:-DEFAULT}}"
            )
        return value

    replaced = re.sub(r"\$\{(\w+)(?::-([^}]*))?\}", replace, node)
    return yaml.safe_load(replaced) if replaced != node else node


def validated(model: type[M], tree: Mapping[str, Any], *, source: str) -> M:
    """The tree as `model`; raises ConfigError, one line that begins with `source`, where it does not fit."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        problems = "; ".join(describe(problem, model) for problem in error.errors()[:5])
        raise ConfigError(f"{source}: {problems}") from None


def describe(problem: Any, model: type[BaseModel]) -> str:
    """One of pydantic's problems as a sentence; an unknown key gets the nearest known one."""
    keys = [str(part) for part in problem["loc"] if not str(part).startswith(("float", "literal["))]
    name = ".".join(keys)
    if problem["type"] == "extra_forbidden":
        known = _field_names(model, keys[:-1])
        near = difflib.get_close_matches(keys[-1], known, n=1, cutoff=0.5)
        hint = (
            f"did you mean '{'.'.join([*keys[:-1], near[0]])}'?"
            if near
            else f"known keys: {', '.join(known)}"
        )
        return f"unknown key '{name}'; {hint}"
    message = problem["msg"].removeprefix("Value error, ")
    if not keys:
        return message  # about several sections, which it names
    shown = repr(problem["input"])
    return f"{name}: {message} (got {shown if len(shown) < 60 else shown[:57] + '...'})"


def _field_names(model: type[BaseModel], keys: Sequence[str]) -> list[str]:
    for key in keys:
        annotation = model.model_fields[key].annotation
        parts = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
        sections = [part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)]
        if not sections:
            return []
        model = sections[0]
    return list(model.model_fields)
