"""Values out of the columns of a raw row, or why the row cannot be used."""

from __future__ import annotations

import json
from typing import Any

from cotray.data.readers import is_unicode
from cotray.errors import DataError

Raw = dict[str, Any]


class UnusableRow(DataError):
    """The message is the dead-letter reason; it holds no row content, so that reasons can be counted."""


def present(row: Raw, column: str) -> Any:
    if row.get(column) is None:
        raise UnusableRow(f"missing column '{column}'")
    return row[column]


def text_of(value: Any, column: str, *, kinds: tuple[type, ...] = (str, int), empty: bool = False) -> str:
    """Text on one line; numbers are accepted where they are names (ids, choices, answers)."""
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise UnusableRow(f"column '{column}' is not text")
    text = " ".join(str(value).split())
    if "\0" in text or not is_unicode(text):
        raise UnusableRow(f"column '{column}' is not text")
    if not text and not empty:
        raise UnusableRow(f"empty {column}")
    return text


def texts_of(value: Any, column: str, *, empty: bool = False) -> tuple[str, ...]:
    """A list, the same as a JSON string, or texts separated by '|'."""
    value = parsed(value, column)
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        value = value.split("|")
    if not isinstance(value, list | tuple):
        raise UnusableRow(f"column '{column}' is not a list")
    return tuple(text_of(item, column, empty=empty) for item in value)


def parsed(value: Any, column: str) -> Any:
    """CSV has no lists: a text that begins like a JSON list or object is read as one."""
    if not (isinstance(value, str) and value.lstrip().startswith(("[", "{"))):
        return value.strip() if isinstance(value, str) else value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise UnusableRow(f"column '{column}' is neither JSON nor separated by '|'") from None
