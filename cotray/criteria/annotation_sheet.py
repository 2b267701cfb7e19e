"""The CSV that annotators fill, in a spreadsheet or through the form: written empty, read and checked."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from cotray.criteria.annotation_key import Key
from cotray.criteria.rated_items import Item
from cotray.errors import DataError
from cotray.prompts.criteria import CRITERIA, Rating

TEXTS = ("question", "choices", "answer", "rationale")
ANSWERS = tuple(criterion.name for criterion in CRITERIA)
COLUMNS = ("item", *TEXTS, *ANSWERS)
BOOLEANS = ("true", "false")
FORMULA = "=+\\-@\uff1d\uff0b\uff0d\uff20"
"""What begins one, in a character class; the last four are the wide forms of the first."""
_INSIDE = re.compile(rf"([;|\t\r\n\v\f][\s;|]*)(?=[\"']*[{FORMULA}])")
"""Where a program that separates cells by another sign than the comma, or does not know quotes, would begin
a cell with a formula."""


def cells(item: Item) -> dict[str, str]:
    """The columns of one item that annotators do not fill."""
    texts = {
        "question": item.question,
        "choices": " / ".join(item.choices),
        "answer": item.answer,
        "rationale": item.rationale,
    }
    return {"item": item.id} | {name: _as_text(text) for name, text in texts.items()}


def _as_text(text: str) -> str:
    """A cell that a spreadsheet takes for text, whatever it takes for separators.

    It saves what it made of a value; after an apostrophe everything is text.
    """
    marked = _INSIDE.sub(r"\1'", text)
    return f"'{marked}" if _is_value(text) else marked


def write_sheet(path: Path, items: Sequence[Item]) -> None:
    """All items with empty answers; with a byte-order mark, without which Excel misreads UTF-8."""
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(cells(item) for item in items)


def read_sheet(path: Path, key: Key) -> dict[str, Rating]:
    """The rating of every item of the key, by item id.

    DataError, naming the file, the row as a spreadsheet counts it, and the way out, where the file is not
    complete, has an unknown answer, was edited, or belongs to another key.
    """
    items = {item.id: item for item in key.items}
    ratings: dict[str, Rating] = {}
    problems: list[str] = []
    for number, row in enumerate(_rows(path), start=2):
        try:
            id_, rating = _rating(row, items)
            if id_ in ratings:
                raise ValueError(f"item {id_} is there twice; delete one of the rows")
            ratings[id_] = rating
        except ValueError as problem:
            problems.append(f"{path} row {number}: {problem}")
    missing = len(items) - len(ratings) - len(problems)
    if missing > 0 and not problems:
        first = next(id_ for id_ in items if id_ not in ratings)
        problems.append(f"{path}: items are missing: {missing}, such as {first}; restore their rows")
    if problems:
        more = f" (and {len(problems) - 1} more rows)" if len(problems) > 1 else ""
        raise DataError(problems[0] + more)
    return ratings


def _rows(path: Path) -> Iterator[dict[str, str]]:
    """The known columns of every row that is not empty."""
    try:
        text = path.read_text("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8; save it as `CSV UTF-8`") from None
    # In countries with a decimal comma spreadsheets write semicolons, some programs tabs.
    delimiter = next((d for d in ";\t" if text.startswith(f"item{d}") or text.startswith(f'"item"{d}')), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        places = {column: place for place, column in enumerate(next(reader, ()))}
        if missing := [column for column in COLUMNS if column not in places]:
            raise DataError(f"{path} row 1: no column {missing[0]}; keep the columns {', '.join(COLUMNS)}")
        # Not a DictReader, which makes an entry of each row for every column of the header.
        for row in reader:
            shown = {name: row[places[name]] if places[name] < len(row) else "" for name in COLUMNS}
            if any(map(str.strip, shown.values())):
                yield shown
    except csv.Error as error:
        raise DataError(f"{path} line {reader.line_num}: not CSV ({error}); save it as `CSV UTF-8`") from None


def _rating(row: dict[str, str], items: dict[str, Item]) -> tuple[str, Rating]:
    """ValueError says what is wrong with the row."""
    id_ = row["item"].strip()
    if id_ not in items:
        raise ValueError(f"item {id_ or '(empty)'} is not in the key; give the key of this file's export")
    for column, text in cells(items[id_]).items():
        if not _same(row[column], text):
            raise ValueError(f"{column} was edited; restore it as exported and change the answers alone")
    grammatical, new = (_verdict(row, column) for column in ANSWERS[:2])
    if not new and row["supports_answer"].strip():
        raise ValueError("supports_answer is asked only where new_info is yes; leave it empty")
    return id_, Rating(grammatical, new, _verdict(row, "supports_answer") if new else None)


def _verdict(row: dict[str, str], column: str) -> bool:
    said = row[column].strip().casefold()
    if said not in ("yes", "no"):
        problem = f"{column} is {row[column].strip()!r}" if said else f"{column} is empty"
        raise ValueError(f"{problem}; answer yes or no")
    return said == "yes"


def _is_value(text: str) -> bool:
    """Whether a spreadsheet could take it for a formula, a boolean, a number, an amount, a date or a time."""
    text = text.strip()
    if re.match(rf"[{FORMULA}]", text) or text.casefold() in BOOLEANS:
        return True
    # A date has three words at most, in any language: day of the week, month, and am or pm.
    num_words = len(re.findall(r"[^\W\d_]+", text))
    return num_words <= 3 and re.search(r"\d", text) is not None and not text.startswith("'")


def _same(cell: str, text: str) -> bool:
    """But for what programs change: spacing, the apostrophe in front, and true to TRUE where that is gone."""
    seen, exported = _as_shown(cell), _as_shown(text)
    return seen == exported or (exported.casefold() in BOOLEANS and seen.casefold() == exported.casefold())


def _as_shown(cell: str) -> str:
    shown = re.sub(rf"([;|\s])'(?=[\"']*[{FORMULA}])", r"\1", cell.strip().removeprefix("'"))
    return " ".join(shown.split())
