"""The first rows of somebody's data: which mapping of columns reads them, before there is a configuration."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

from cotray.config import DataConfig, RunConfig
from cotray.config.data import Column, ColumnsConfig
from cotray.data.columns import Raw, UnusableRow
from cotray.data.few_answers import labels_of
from cotray.data.file_formats import Row, Unreadable
from cotray.data.layouts import UNDESCRIBED
from cotray.data.questions import understand
from cotray.data.readers import read_rows
from cotray.errors import DataError

NUM_ROWS = 20
NUM_ANSWERS = 500
"""Rows whose answers are looked at, to see whether they are a few labels."""
SEED = RunConfig().seed
NAMES = {
    "id": ("id", "qid", "uid", "question_id"),
    "question": (
        "question",
        "q",
        "query",
        "prompt",
        "problem",
        "stem",
        "statement",
        "claim",
        "sentence",
        "text",
    ),
    "choices": ("choices", "options", "candidates"),
    "answer": (
        "answer",
        "correct_answer",
        "correct",
        "label",
        "gold",
        "target",
        "solution",
        "answer_key",
        "verdict",
        "class",
        "category",
    ),
    "rationale": ("rationale", "explanation", "reasoning", "reason"),
}
"""What a column with such a name is likely to be; of several the first."""
CHOICE = re.compile(r"(|option|opt|choice|answer|ans)_?([a-j]|\d)")
"""The name of a column that holds one choice."""


@dataclass(frozen=True)
class FirstLook:
    rows: Sequence[tuple[str, Row]]
    """Each with its place."""
    config: DataConfig
    """The mapping that reads most of the rows."""
    read_as: str
    """The layout and the tasks of the rows that are understood; "" where there are none."""
    num_understood: int
    reasons: Counter[str]
    """Why rows are not understood."""
    columns: dict[str, Any]
    """Names and paths of the columns, with their first values."""
    tasks: frozenset[str] = frozenset()

    @property
    def is_guess(self) -> bool:
        """Whether the mapping was made from the names of columns, and not from a known layout."""
        return self.config.columns != UNDESCRIBED


def first_look(path: str, *, num_rows: int = NUM_ROWS) -> FirstLook:
    """Raises DataError where there is no row, or none that could be a question."""
    plain = DataConfig(path=path)
    rows = list(islice(read_rows(plain), num_rows))
    if not rows:
        raise DataError(f"{path}: no row in it; the first line of a CSV or Excel file names the columns")
    readable = [row for _, row in rows if not isinstance(row, Unreadable)]
    if not readable:
        reasons = Counter(row.reason for _, row in rows if isinstance(row, Unreadable))
        raise DataError(f"{path}: none of the first {len(rows)} rows can be read: {_counted(reasons)}")
    columns: dict[str, Any] = {}
    for row in readable:
        for name, value in _flat(row):
            columns.setdefault(name, value)
    found = _read_by(plain, rows, columns)
    if not found.num_understood and (guess := _guess(readable)):
        guessed = _read_by(plain.model_copy(update={"columns": guess}), rows, columns)
        # Of a layout some rows may be bad; a guess has to fit all of them.
        found = guessed if guessed.num_understood == len(readable) else found
    if found.tasks == {"open"} and (labels := _labels(found.config)):
        labelled = _read_by(found.config.model_copy(update={"labels": labels}), rows, columns)
        found = labelled if labelled.num_understood == found.num_understood else found
    if not found.num_understood and len(columns) < 2:
        names = ", ".join(columns) or "none"
        raise DataError(
            f"{path}: rows need at least a question and an answer, and have one column ({names}); the "
            "columns of a CSV file are separated by commas, semicolons, tabs or |"
        )
    return found


def _read_by(config: DataConfig, rows: Sequence[tuple[str, Row]], columns: dict[str, Any]) -> FirstLook:
    ways: Counter[tuple[str, str]] = Counter()
    reasons: Counter[str] = Counter()
    for _, row in rows:
        try:
            understood = understand(row, config, seed=SEED)
        except UnusableRow as error:
            reasons[str(error)] += 1
        else:
            ways[understood.layout, understood.pair.task] += 1
    layouts = ", ".join(dict.fromkeys(layout for layout, _ in ways))
    tasks = ", ".join(dict.fromkeys(task for _, task in ways))
    read_as = f"{layouts}, task {tasks}" if ways else ""
    tasks = frozenset(task for _, task in ways)
    return FirstLook(rows, config, read_as, ways.total(), reasons, columns, tasks)


def _labels(config: DataConfig) -> tuple[str, ...]:
    """What the answers of open questions are, where they are choices that no column names."""
    answers = []
    for _, row in islice(read_rows(config), NUM_ANSWERS):
        with suppress(UnusableRow):
            answers.append(understand(row, config, seed=SEED).pair.answer)
    return labels_of(answers)


def _guess(rows: Sequence[Raw]) -> ColumnsConfig | None:
    """What the names of columns say, whatever their case; None without a question and an answer."""
    plain: dict[str, str] = {}
    for name in (name for row in rows for name in row):
        plain.setdefault(re.sub(r"\W+", "_", name.casefold()).strip("_"), name)
    found: dict[str, Column] = {}
    for part, names in NAMES.items():
        if name := next((plain[name] for name in names if name in plain), None):
            found[part] = name
    if not {"question", "answer"} <= found.keys():
        return None
    if "choices" not in found and (several := _choices(plain)):
        found["choices"] = several
    return ColumnsConfig(**found)


def _choices(plain: dict[str, str]) -> tuple[str, ...]:
    """Columns with a choice each, such as option_a and option_b, of the kind that there are most of."""
    matches = sorted((match[1], match[2], plain[name]) for name in plain if (match := CHOICE.fullmatch(name)))
    groups = [[name for _, _, name in group] for _, group in groupby(matches, key=lambda match: match[0])]
    most = max(groups, key=len, default=[])
    return tuple(most) if len(most) > 1 else ()


def _flat(row: Raw, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Columns with their values; of nested ones their paths."""
    for name, value in row.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _counted(reasons: Counter[str]) -> str:
    return "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3))
