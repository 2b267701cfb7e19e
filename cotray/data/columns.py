"""Values out of the columns of a raw row, or why the row cannot be used.

A column is named by its name, by a path into nested ones, by a template with such names in braces, or by a
list of these (`cotray.config.data.ColumnsConfig`).
"""

from __future__ import annotations

import json
import re
from typing import Any

from cotray.config.data import Column
from cotray.data.file_formats import is_unicode
from cotray.errors import DataError

Raw = dict[str, Any]
PLACEHOLDER = re.compile(r"\{([^{}]+)\}")


class UnusableRow(DataError):
    """The message is the dead-letter reason; it holds no row content, so that reasons can be counted."""


def has(row: Raw, path: str) -> bool:
    """Whether the row has such a column, whatever is in it."""
    try:
        _follow(row, path)
    except LookupError:
        return False
    return True


def value_of(row: Raw, column: Column) -> Any:
    """What the columns named hold: one value, a list of values, or a filled-in template.

    UnusableRow where a column is missing; None is a value, but not one that a template can be filled with.
    """
    if not isinstance(column, str):
        return [value_of(row, part) for part in column]
    if PLACEHOLDER.search(column):
        return PLACEHOLDER.sub(lambda match: str(present(row, match[1])), column)
    try:
        return _follow(row, column)
    except LookupError:
        raise UnusableRow(f"missing column '{column}'") from None


def present(row: Raw, path: str) -> Any:
    """The value of a column that must have one."""
    value = value_of(row, path)
    if value is None:
        raise UnusableRow(f"missing column '{path}'")
    return value


def _follow(row: Raw, path: str) -> Any:
    """Raises LookupError. A column whose own name has dots in it goes before a path."""
    if path in row:
        return row[path]
    value: Any = row
    for step in path.split("."):
        value = _said_by(value, step) if isinstance(value, list) else parsed_object(value)[step]
    return value


def _said_by(items: list[Any], step: str) -> Any:
    """An item by its position, or the text that a role said last in a conversation."""
    if step.lstrip("-").isdecimal():
        return items[int(step)]
    for item in reversed(items):
        if isinstance(item, dict) and step in (item.get("role"), item.get("from")):
            return item.get("content", item.get("value"))
    raise LookupError(step)


def parsed_object(value: Any) -> dict[str, Any]:
    """A nested row; CSV holds it as JSON text. Raises LookupError where there is none."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise LookupError from None
    if not isinstance(value, dict):
        raise LookupError
    return value


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


def joined(value: Any, column: str, *, kinds: tuple[type, ...] = (str, int), empty: bool = False) -> str:
    """Text on one line, of one column or of several, of which some may be empty."""
    if not isinstance(value, list):
        return text_of(value, column, kinds=kinds, empty=empty)
    parts = [text_of(part, column, kinds=kinds, empty=True) for part in value if part is not None]
    return text_of(" ".join(part for part in parts if part), column, empty=empty)


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
