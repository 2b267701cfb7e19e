"""What a parser is, and texts that are bad for many of them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDER = tempfile.TemporaryDirectory(prefix="ct-")
Build = Callable[[int], str]
"""A text of about so many characters."""


def run_of(unit: str, begin: str = "", end: str = "") -> Build:
    return lambda n: begin + unit * (n // len(unit)) + end


ANYWHERE: dict[str, Build] = {
    "spaces": run_of(" ", "a", "b"),
    "lines": run_of("\n", "a", "b"),
    "letters": run_of("a"),
    "words": run_of("aaa "),
    "brackets": run_of("["),
    "quotes": run_of('"'),
    "halves of characters": run_of("\ud800"),
}


@dataclass(frozen=True)
class Parser:
    """`worst` are texts against this one alone, beside those of ANYWHERE."""

    module: ModuleType
    name: str
    call: Callable[[str], Any]
    worst: dict[str, Build] = field(default_factory=dict)


def file(text: str, suffix: str) -> Path:
    path = Path(FOLDER.name, f"text{suffix}")
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    return path
