"""The page of every configuration key, and a configuration with what its keys mean, from the models.

python -m cotray.config.reference > docs/reference/configuration.md
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import yaml
from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cotray.config import RunConfig
from cotray.config.examples import example_of
from cotray.config.pairs import PairsConfig
from cotray.config.sweep import SweepConfig

WIDTH = 100
HEADER = """# Configuration

Every key of a configuration file, with its type, its default, an example and what it means. A key can be
given in the file or behind the command as `a.b=c`; an example is what stands behind the `=`. With
`--print-config`, every verb prints the configuration that it would use, with the same texts. An unknown
key is an error that names the nearest known one.

`${NAME}` and `${NAME:-default}` in a value stand for environment variables. They are replaced as text,
whatever is in it, and the key has the type that this page says; where it says `mapping`, the value is text.
What was written is what is written again: `config.yaml`, manifests, reports and `--print-config` have
`${NAME}`, and so do messages. Only the names of models and of their revisions are also recorded as what they
stand for, because rows are told apart by them. A token, such as `teacher.engine_args.hf_token`, is refused
where it is not given in this way, and so is a URL with a user name or password in it.

This page has three parts: the configuration of a run, [a sweep's file](#a-sweeps-file), and
[the file of train_pairs](#the-file-of-train_pairs). It is generated from the models:
`python -m cotray.config.reference > docs/reference/configuration.md`.
"""
SWEEP = """## A sweep's file

What `cotray sweep -c FILE` takes, such as `jobs/sweeps/ablations.yaml`. `a.b=c` behind the command
sets a key of `base`, and `run_dir=...` the sweep's own.
"""
PAIRS = """## The file of train_pairs

What `cotray train_pairs -c FILE` takes, such as `jobs/pairs/squad-smollm2.yaml`.
"""


@dataclass(frozen=True)
class Key:
    """One key by its path, or a section (`is_section`) with the keys that follow."""

    path: str
    kind: str
    default: str
    example: str
    text: str
    is_section: bool


def keys(
    model: type[BaseModel] = RunConfig, prefix: str = "", section: BaseModel | None = None
) -> Iterator[Key]:
    """Every key below `model`: its own ones first, then its sections, each before what is in it.

    `section`: what the model's place in the configuration has by default, where that is not the model's own.
    """
    sections = []
    for name, field in model.model_fields.items():
        path, text = f"{prefix}{name}", " ".join((field.description or "").split())
        inner = _section(field.annotation)
        value = _UNSET if field.is_required() else field.get_default(call_default_factory=True)
        value = value if section is None else getattr(section, name)
        if inner is None:
            example = example_of(path) or _other_value(field.annotation, value)
            yield Key(path, _kind(field.annotation, field), _shown(value), example, text, False)
        else:
            is_list = typing.get_origin(field.annotation) is tuple
            inner_default = value if isinstance(value, BaseModel) else None
            sections.append((f"{path}[]" if is_list else path, inner, text, inner_default))
    for path, inner, text, inner_default in sections:
        yield Key(path, inner.__name__, "", "", text, True)
        yield from keys(inner, f"{path}.", inner_default)


def page() -> str:
    """The page in Markdown: one table per section, of each of the three kinds of files."""
    lines = [HEADER, "## At the top", "", *_tables(keys(), "##")]
    lines += ["", SWEEP, *_tables(keys(SweepConfig), "###"), "", PAIRS, *_tables(keys(PairsConfig), "###")]
    return "\n".join(lines) + "\n"


def _tables(found: Iterator[Key], level: str) -> Iterator[str]:
    yield from _TABLE
    for key in found:
        yield from ("", f"{level} {key.path}", "", key.text, "", *_TABLE) if key.is_section else (_row(key),)


def annotated(config: RunConfig) -> str:
    """The configuration as YAML, every key under a comment that says what it means."""
    texts = {key.path: key.text for key in keys()}
    return "\n".join(_annotated(config.written(), texts, "", 0)) + "\n"


_UNSET: Any = object()
_TABLE = ["| key | type | default | example | meaning |", "| --- | --- | --- | --- | --- |"]


def _row(key: Key) -> str:
    kind, text = key.kind.replace("|", "\\|"), key.text.replace("|", "\\|")
    return f"| `{key.path}` | {kind} | {key.default} | `{key.example}` | {text} |"


def _annotated(tree: Mapping[str, Any], texts: Mapping[str, str], path: str, depth: int) -> Iterator[str]:
    indent = "  " * depth
    for name, value in tree.items():
        if text := texts.get(f"{path}{name}") or texts.get(f"{path}{name}[]"):
            yield f"{indent}# {text}"
        if isinstance(value, dict) and f"{path}{name}" in texts and value:
            yield f"{indent}{name}:"
            yield from _annotated(value, texts, f"{path}{name}.", depth + 1)
        else:
            yield from (
                f"{indent}{line}"
                for line in yaml.safe_dump({name: value}, sort_keys=False, width=WIDTH).splitlines()
            )


def _section(annotation: Any) -> type[BaseModel] | None:
    """The model of a section: itself, optional, or of each item of a list."""
    for candidate in (annotation, *typing.get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _kind(annotation: Any, field: FieldInfo | None = None) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return " | ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " | ".join("null" if part is type(None) else _kind(part) for part in arguments)
    if origin is tuple:
        return f"list of {_kind(arguments[0])}"
    if origin is dict:
        return "mapping"
    if origin is typing.Annotated:
        return _kind(arguments[0])
    names = {str: "text", int: "integer", float: "number", bool: "true | false"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation))) + _bounds(field)


def _bounds(field: FieldInfo | None) -> str:
    signs = {Ge: ("≥", "ge"), Gt: (">", "gt"), Le: ("≤", "le"), Lt: ("<", "lt")}
    found = [
        f"{sign} {getattr(part, name)}"
        for part in (field.metadata if field else ())
        for kind, (sign, name) in signs.items()
        if isinstance(part, kind)
    ]
    return f", {' and '.join(found)}" if found else ""


def _shown(value: Any) -> str:
    """A default, as the page shows it."""
    if value is _UNSET:
        return "required"
    return f"`{json.dumps(value, default=list)}`" if value != "" else "empty"


def _other_value(annotation: Any, default: Any) -> str:
    """Of a key with named values or a switch: the first value that is not the default; "" for other keys."""
    parts = [annotation, *typing.get_args(annotation)]
    named = [value for part in parts if typing.get_origin(part) is Literal for value in typing.get_args(part)]
    values = [True, False] if annotation is bool else named
    return next((json.dumps(value).strip('"') for value in values if value != default), "")


if __name__ == "__main__":
    print(page(), end="")
