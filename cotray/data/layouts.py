"""Which columns of a raw row mean what: as `data.columns` says, or as the layout of a published dataset does.

Every file in published/ is the layout of one dataset. A row has the layout of which it has the most columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml
from pydantic import Field

from cotray.config import DataConfig
from cotray.config.data import AnswerIn, AnswerIs, Column, ColumnsConfig, MappingConfig
from cotray.data.columns import PLACEHOLDER, Raw, UnusableRow, has, value_of
from cotray.records import Task

OWN = "cotray"
UNDESCRIBED = ColumnsConfig()


class Layout(MappingConfig):
    """A row has it if it has all of these columns."""

    recognised_by: tuple[str, ...]
    """Columns or paths into nested ones."""
    recognised_by_text: dict[str, str] = Field(default_factory=dict)
    """Columns that must also hold such a text."""

    def is_of(self, row: Raw) -> bool:
        """Whether the row has what the layout is recognised by."""
        return all(has(row, path) for path in self.recognised_by) and all(
            isinstance(row[column], str) and text in row[column]
            for column, text in self.recognised_by_text.items()
        )

    @property
    def num_marks(self) -> int:
        """Of two layouts that a row has, the one with more of these is meant."""
        return len(self.recognised_by) + len(self.recognised_by_text)


@cache
def layouts() -> dict[str, Layout]:
    """By name; those recognised by the most columns first."""
    folder = resources.files("cotray.data").joinpath("published")
    found = {
        file.name.removesuffix(".yaml"): Layout(**yaml.safe_load(file.read_text("utf-8")))
        for file in folder.iterdir()
    }
    return dict(sorted(found.items(), key=lambda item: (-item[1].num_marks, item[0])))


def layout_of(row: Raw) -> str:
    """The name of the layout that the row's columns are of."""
    if "task" in row:
        return OWN
    for name, layout in layouts().items():
        if layout.is_of(row):
            return name
    if row.keys() & {"question", "answer"}:
        return OWN
    raise UnusableRow("unknown layout; say in data.columns which column is the question and which the answer")


@dataclass(frozen=True)
class Mapping:
    """What the columns of rows mean: each part as the configuration says it, else as their layout does."""

    name: str
    layout: Layout
    config: DataConfig

    @property
    def task(self) -> Task | None:
        return self.config.task or self.layout.task

    @property
    def answer_is(self) -> AnswerIs | None:
        return self.config.answer_is or self.layout.answer_is

    @property
    def answer_in(self) -> AnswerIn:
        return self.config.answer_in or self.layout.answer_in or "whole"

    @property
    def labels(self) -> tuple[str, ...]:
        return self.config.labels or self.layout.labels

    @property
    def shuffle_choices(self) -> bool:
        own = self.config.shuffle_choices
        return bool(self.layout.shuffle_choices if own is None else own)

    def read(self, row: Raw, part: str) -> Any:
        """What the row has for one part of a question; None where it has no such column.

        UnusableRow where the configuration names a column that is not there.
        """
        if named := getattr(self.config.columns, part):
            return value_of(row, named)
        for column in _columns(self.layout, part):
            if not isinstance(column, str):
                return [value_of(row, path) for path in column if has(row, path)]
            if PLACEHOLDER.search(column) or has(row, column):
                return value_of(row, column)
        return None


def mapping_of(row: Raw, config: DataConfig) -> Mapping:
    """UnusableRow where neither the configuration nor a known layout says what the columns mean."""
    is_described = config.columns != UNDESCRIBED
    name = config.format
    if name == "auto":
        name = OWN if is_described else layout_of(row)
    return Mapping("data.columns" if is_described else name, layouts()[name], config)


def _columns(layout: Layout, part: str) -> tuple[Column, ...]:
    """Where a layout has one part of a question; without a word about it, in a column of its name."""
    own = ("reference_rationale", part) if part == "rationale" else (part,)
    column = getattr(layout.columns, part)
    return own if column is None else (column,)
