"""Configuration files: YAML, `a.b=c` overrides, ${ENV}, and validation problems in the user's words."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from cotray.config.base import FileConfig
from cotray.config.references import Reference, has_reference, hidden, keep_hidden, references, resolved
from cotray.errors import ConfigError

M = TypeVar("M", bound=BaseModel)
_USERINFO = re.compile(r"\w[\w+.-]*://[^/?#\s]*@")
_SECRET = re.compile(r"\$\{\w*(?:TOKEN|SECRET|PASSW|API_?KEY|CREDENTIAL)\w*[}:]", re.IGNORECASE)
"""Variables that are named as those with secrets are."""
_TOKEN = re.compile(
    r"(?:engine|template)_args(?:\..*)?\.\w*(?:hf_token|api_key|password|secret|access_token|authorization)$",
    re.IGNORECASE,
)
"""Names of arguments that hold secrets."""


def read_tree(path: str | Path, overrides: Sequence[str], *, kept: Collection[str] = ()) -> dict[str, Any]:
    """The file's keys and values with overrides and environment variables put in.

    `kept`: keys at the top in whose values `${NAME}` stays as it is. Raises ConfigError with one line that
    names the file or key and the way out.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file; `cotray init DATA` writes one") from None
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
    return {key: value if key in kept else resolved(value, str(path)) for key, value in tree.items()}


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


def validated(model: type[M], tree: Mapping[str, Any], *, source: str) -> M:
    """The tree as `model`; raises ConfigError, one line that begins with `source`, where it does not fit.

    The line shows references and not what they stand for.
    """
    found = dict(references(tree))
    if problems := list(_secrets_in_plain(tree)):
        raise ConfigError(hidden(f"{source}: {'; '.join(problems)}", found.values()))
    try:
        config = model.model_validate(tree)
    except ValidationError as error:
        problems = "; ".join(describe(problem, model) for problem in error.errors()[:5])
        raise ConfigError(hidden(f"{source}: {problems}", found.values())) from None
    if isinstance(config, FileConfig):
        config.remember(found)
    for reference in found.values():
        if _SECRET.search(reference.written):
            keep_hidden(reference)
    for _, reference in references(config.model_dump()):  # where a token may be: mappings of any values
        keep_hidden(reference)
    return config


def _secrets_in_plain(node: Any, name: str = "") -> Iterator[str]:
    """What would be written to files as it is: a password in a URL, and a token that is no reference."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _secrets_in_plain(value, f"{name}.{key}" if name else str(key))
    elif isinstance(node, list | tuple):
        for position, value in enumerate(node):
            yield from _secrets_in_plain(value, f"{name}.{position}")
    elif isinstance(node, str) and _USERINFO.match(node):
        yield (
            f"{name}: has a user name or password before its @, and a URL is written to files and shown; "
            "leave it out, and give credentials in the environment (AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or what teacher.endpoint.api_key_env names)"
        )
    elif isinstance(node, Reference) or not isinstance(node, str) or has_reference(node):
        return
    elif node and _TOKEN.search(name):
        yield (
            f"{name}: would be written to files as it is; put it into an environment variable, and write "
            "${NAME} here"
        )


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
