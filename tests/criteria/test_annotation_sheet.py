"""Sheets that a spreadsheet saved: what it takes for numbers, dates, booleans and formulas it calculates."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from rated import item, run_folder

from cotray.criteria.annotation_key import Key
from cotray.criteria.annotation_sheet import cells, read_sheet, write_sheet
from cotray.criteria.rated_items import Item, draw_items
from cotray.errors import DataError
from cotray.prompts.criteria import Rating

VALUES = ("true", "False", "1,000", "1/2", "1 / 2", "007", "1e5", "50%", "$5", "10:30", "10:30 pm", "March 5")
VALUES += ("5 March 2020", "3-4", "-3", "+3", ".5", "=1+1", "@now", "\t=1+1")
TEXTS = ("robin", "yes", "It has 4 legs and no wings.", "'Tis so.", "'5", "true enough", "n/a", "")


def calculated(cell: str) -> str:
    """What a spreadsheet saves of what it reads; an apostrophe in front makes anything text."""
    text = cell.strip()
    if text.lower() in ("true", "false"):
        return text.upper()
    if re.match(r"[=@+-]", text):
        return "#NAME?"
    with suppress(ValueError):
        return f"{float(text.replace(',', '').strip('%$')):.6G}"
    for form in ("%m/%d", "%m / %d", "%m-%d", "%B %d", "%d %B %Y", "%H:%M", "%I:%M %p"):
        with suppress(ValueError):
            return datetime.strptime(text, form).strftime("%d-%b-%Y %H:%M")
    return cell


def without_apostrophe(cell: str) -> str:
    """As those save a text that take the apostrophe for a mark and not for a part of it."""
    return cell[1:] if cell.startswith("'") else calculated(cell)


def saved(path: Path, spreadsheet: Callable[[str], str]) -> None:
    """The sheet as a spreadsheet saves it, all questions answered by yes."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        head, *rows = csv.reader(file)
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows([head, *([*map(spreadsheet, row[:-3]), *["yes"] * 3] for row in rows)])


def one(answer: str) -> Item:
    return replace(item("i0", ("teacher", "greedy")), answer=answer, choices=(answer,), rationale=answer)


@pytest.mark.parametrize("spreadsheet", [calculated, without_apostrophe])
@pytest.mark.parametrize("answer", [*VALUES, *TEXTS])
def test_what_a_spreadsheet_would_calculate_comes_back_as_it_was(
    tmp_path: Path, answer: str, spreadsheet: Callable[[str], str]
) -> None:
    assert (calculated(answer) != answer) == (answer in VALUES)
    key = Key((one(answer),))
    write_sheet(tmp_path / "s.csv", key.items)
    saved(tmp_path / "s.csv", spreadsheet)
    assert read_sheet(tmp_path / "s.csv", key) == {"i0": Rating(True, True, True)}


@pytest.mark.parametrize("text", TEXTS)
def test_other_texts_have_no_apostrophe_that_annotators_could_take_for_the_writers(text: str) -> None:
    assert cells(one(text))["rationale"] == text


def saved_with(path: Path, answer: str, seen: str) -> Key:
    """A sheet in which `seen` stands for the answer; returns its key."""
    key = Key((one(answer),))
    write_sheet(path, key.items)
    saved(path, lambda cell: seen if cell.strip("'") == answer else cell)
    return key


@pytest.mark.parametrize(("answer", "seen"), [("true", "TRUE"), ("False", "FALSE"), ("false", "False")])
def test_booleans_that_lost_their_apostrophe_may_come_in_capitals(
    tmp_path: Path, answer: str, seen: str
) -> None:
    key = saved_with(tmp_path / "s.csv", answer, seen)
    assert read_sheet(tmp_path / "s.csv", key) == {"i0": Rating(True, True, True)}


@pytest.mark.parametrize(
    ("answer", "seen"),
    [("true", "FALSE"), ("true", "1"), ("Paris", "PARIS"), ("true enough", "TRUE ENOUGH"), ("1,000", "1000")],
)
def test_edited_texts_are_refused_whatever_a_spreadsheet_may_do_to_booleans(
    tmp_path: Path, answer: str, seen: str
) -> None:
    key = saved_with(tmp_path / "s.csv", answer, seen)
    with pytest.raises(DataError, match="row 2: choices was edited"):
        read_sheet(tmp_path / "s.csv", key)


def test_ids_are_never_numbers_to_a_spreadsheet(tmp_path: Path) -> None:
    """Of 16 bare hexadecimal digits (10/16)^16 + 14 (10/16)^15 / 16 are: one id in 770."""
    items = draw_items(run_folder(tmp_path), num_rationales=8)
    assert items and all(one.id[0].isalpha() and calculated(one.id) == one.id for one in items)
    assert calculated("1234567890123456") == "1.23457E+15"


def test_keys_and_sheets_of_bare_ids_are_still_read(tmp_path: Path) -> None:
    Key((item("0123456789abcdef", ("teacher", "greedy")),)).write(tmp_path / "key.json")
    key = Key.read(tmp_path / "key.json")
    write_sheet(tmp_path / "s.csv", key.items)
    saved(tmp_path / "s.csv", calculated)
    assert read_sheet(tmp_path / "s.csv", key) == {"0123456789abcdef": Rating(True, True, True)}


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_line_breaks_delimiters_and_formulas_survive(tmp_path: Path, delimiter: str) -> None:
    rationale = '=HYPERLINK("http://x"; "y"), said\nshe — naïve'
    key = Key((item("a" * 16, ("teacher", "greedy"), rationale=rationale),))
    path = tmp_path / "s.csv"
    write_sheet(path, key.items)
    with path.open(encoding="utf-8-sig", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["rationale"] == f"'{rationale}"
    row |= {"grammaticality": "Yes", "new_info": "YES", "supports_answer": "no"}
    # Its own delimiter and line ends, the apostrophe gone, no byte-order mark.
    row["rationale"] = rationale.replace("\n", "\r\n")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, row.keys(), delimiter=delimiter, lineterminator="\n")
        writer.writeheader()
        writer.writerow(row)
    assert read_sheet(path, key) == {"a" * 16: Rating(True, True, False)}


def test_a_file_that_is_no_csv_is_refused_in_one_line(tmp_path: Path) -> None:
    key = Key((one("robin"),))
    path = tmp_path / "s.csv"
    write_sheet(path, key.items)
    with path.open("a", encoding="utf-8") as file:
        file.write('"' + "a" * 200_000)
    with pytest.raises(DataError, match=r"s.csv line 3: not CSV \(field larger than"):
        read_sheet(path, key)


def test_cells_beyond_the_columns_and_columns_of_ones_own_are_left_out(tmp_path: Path) -> None:
    key = Key((one("robin"),))
    path = tmp_path / "s.csv"
    write_sheet(path, key.items)
    saved(path, str)
    head, row = path.read_text("utf-8-sig").splitlines()
    path.write_text(f"note,{head}\n,{row},x,y\n,\n\n")
    assert read_sheet(path, key) == {"i0": Rating(True, True, True)}


HIDDEN = [
    "Is it heavy?;=1+1", "a; =1+1",
    'a;"=1+1"', "a\t=1+1", "a|=1+1", "a\n=1+1", "a\r\n=1+1", "a;;+1", "a;-1;b",
    "a;@SUM(1)", "x;\uff1d1+1", "a;'=1+1", 'say "b;=1+1"', "a, =1+1", "\uff1d1+1",
]  # fmt: skip


@pytest.mark.parametrize("delimiter", list(",;\t|"))
@pytest.mark.parametrize("text", HIDDEN)
def test_no_cell_is_a_formula_whatever_a_program_takes_for_the_separator(
    tmp_path: Path, text: str, delimiter: str
) -> None:
    asked = replace(one("robin"), question=text, rationale=f"{text} because")
    key = Key((asked,))
    write_sheet(tmp_path / "s.csv", key.items)
    with (tmp_path / "s.csv").open(encoding="utf-8-sig", newline="") as file:
        seen = [cell for row in csv.reader(file, delimiter=delimiter) for cell in row]
    # And by one that knows no quotes at all.
    raw = (tmp_path / "s.csv").read_text("utf-8-sig")
    seen += re.split(f"[{re.escape(delimiter)}\r\n]", raw) if delimiter != "," else []
    assert seen and not [cell for cell in seen if re.match(r"[\s\"]*[=+\-@\uff1d]", cell)]
    saved(tmp_path / "s.csv", calculated)
    assert read_sheet(tmp_path / "s.csv", key) == {asked.id: Rating(True, True, True)}


def test_a_text_without_a_formula_is_left_as_it_is() -> None:
    text = "Well-known; it has 4 legs - and e-mail@home; the rest = nothing."
    assert cells(replace(one("robin"), question=text))["question"] == text
