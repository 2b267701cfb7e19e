"""`cotray init`: what it writes is read by `prepare` as it stands, or says what is to be filled in."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from openpyxl import Workbook
from published import EXAMPLES, Example

from cotray.cli import job
from cotray.config import load_config
from cotray.data.prepare import prepare
from cotray.data.questions import understand
from cotray.errors import DataError
from cotray.storage.run_folder import Manifest, RunFolder

OWN = [{"question": f"Is {n} even?", "answer": ["yes", "no"][n % 2]} for n in range(30)]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def written(data: str, *options: str) -> dict[str, Any]:
    """The keys and values of the file that init wrote."""
    assert job("init", [data, *options]) == 0
    return yaml.safe_load(Path("cotray.yaml").read_text())


def prepared(*overrides: str) -> Manifest:
    """What `prepare` makes of the file that init wrote."""
    config = load_config("cotray.yaml", overrides)
    return prepare(config, RunFolder(config.run_dir))


def lines(rows: list[dict[str, Any]], name: str = "a.jsonl") -> str:
    Path(name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return name


def comma_separated(rows: list[dict[str, Any]], name: str = "a.csv", *, delimiter: str = ",") -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    Path(name).write_text(text.getvalue())
    return name


def varied(value: Any, example: Example, n: int) -> Any:
    """The row with another question and another id: what these are made of is numbered, and open answers."""
    if isinstance(value, dict):
        return {name: varied(part, example, n) for name, part in value.items()}
    if isinstance(value, list):
        return [varied(part, example, n) for part in value]
    if example.id and str(value) == example.id:
        return f"{value}-{n}"
    for answer in () if example.choices or not isinstance(value, str) else (example.answer, "1,200"):
        value = value.replace(answer, f"{n + 1}{answer}")  # of which there have to be different ones
    is_part = isinstance(value, str) and " " in value and value in example.question
    return f"{n} {value}" if is_part and value not in (*example.choices, example.answer) else value


@pytest.mark.parametrize("name", EXAMPLES)
def test_rows_of_every_published_layout_are_recognised_and_prepared(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    example = EXAMPLES[name]
    rows = [varied(example.row, example, n) for n in range(30)]
    assert "columns" not in written(lines([example.row, *rows]))["data"]
    assert f"as {name}, task {example.task}" in capsys.readouterr().out
    config = load_config("cotray.yaml")
    assert understand(example.row, config.data, seed=config.seed).pair.question == example.question
    if example.split:
        return  # all rows are of one split, and none would be left to train on or to test with
    assert prepared().metrics[f"layout/{name}"] >= 30


@pytest.mark.parametrize("kind", ["semicolons", "excel", "parquet", "json"])
def test_files_with_cotrays_own_columns_are_prepared_as_they_are(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if kind == "semicolons":
        name = comma_separated(OWN, delimiter=";")
    elif kind == "excel":
        book = Workbook()
        sheet: Any = book.active
        sheet.append(list(OWN[0]))
        for row in OWN:
            sheet.append(list(row.values()))
        book.save("a.xlsx")
        name = "a.xlsx"
    elif kind == "parquet":
        import pandas

        pandas.DataFrame(OWN).to_parquet("a.parquet")
        name = "a.parquet"
    else:
        Path("a.json").write_text(json.dumps(OWN, indent=1))
        name = "a.json"
    assert written(name)["data"] == {"path": name}
    assert (prepared().num_in, prepared().num_dead) == (30, 0)


def test_columns_are_guessed_from_their_names_where_the_guess_fits_every_row(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [
        {"Nr": n, "Q": f"Which is wet, {n}?", "Option A": "sea", "Option B": "sand", "Label": "AB"[n % 2]}
        for n in range(30)
    ]
    columns = written(comma_separated(rows))["data"]["columns"]
    assert columns == {"question": "Q", "choices": ["Option A", "Option B"], "answer": "Label"}
    assert "20 of the first 20 rows are understood" in (said := capsys.readouterr().out)
    assert "a guess from the names of the columns" in said and "choices   sea | sand" in said
    assert prepared().metrics["layout/data.columns"] == 30


def test_a_guess_that_does_not_fit_every_row_is_none() -> None:
    rows = [{"q": f"{n}?", "a": "sea", "b": "sand", "label": "C" if n == 7 else "A"} for n in range(9)]
    columns = written(comma_separated(rows))["data"]["columns"]
    assert columns == dict.fromkeys(("question", "answer", "choices", "rationale", "id"))


def test_unknown_columns_are_listed_with_their_values_and_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [
        {"frage: neu": f"Was ist naß, {n}?", "wahl": {"a": "Meer", "b": "Sand"}, "#lösung": "a"}
        for n in range(30)
    ]
    assert set(written(lines(rows))["data"]["columns"].values()) == {None}
    assert "say in its data.columns which column is the question" in capsys.readouterr().out
    text = Path("cotray.yaml").read_text()
    assert "'frage: neu': \"Was ist naß, 0?\"" in text and 'wahl.a: "Meer"' in text and "'#lösung'" in text
    with pytest.raises(DataError, match=r"say in data\.columns which column is the question"):
        prepared()
    for part, column in {
        "question": "'frage: neu'",
        "answer": "'{#lösung}'",
        "choices": "[wahl.a, wahl.b]",
    }.items():
        text = text.replace(f"    {part}: null\n", f"    {part}: {column}\n")
    Path("cotray.yaml").write_text(text)
    assert (prepared().num_in, prepared().num_dead) == (30, 0)


NAMES = [
    "Frage",
    "问题",
    "on",
    "a: b",
    "- c",
    "#d",
    "'e'",
    '"f"',
    "{g}",
    "1",
    "",
    "null",
    "\u2028",
    "x\ty",
    "😀",
    "${H}",
]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_of_a_column_leaves_a_file_that_is_read(name: str) -> None:
    assert written(lines([{name: "Which?", "other": n} for n in range(3)]))["data"]["columns"]
    assert load_config("cotray.yaml").data.columns.question is None


@pytest.mark.parametrize(
    "name", ["Label", " label", "Label:", "LABEL #", "'label'", "label\u2028", "label\t"]
)
def test_a_guessed_name_comes_back_from_the_file_as_it_is_in_the_data(name: str) -> None:
    rows = [{"Q": f"Is {n} even?", name: "yes"} for n in range(3)]
    assert written(lines(rows))["data"]["columns"] == {"question": "Q", "answer": name}
    config = load_config("cotray.yaml")
    assert understand(rows[1], config.data, seed=1).pair.answer == "yes"


@pytest.mark.parametrize(
    "name", ["on.jsonl", "null.jsonl", "a: b.jsonl", "#x.jsonl", "naß 'x'.jsonl", "-.jsonl"]
)
def test_any_name_of_a_file_is_found_again(name: str) -> None:
    assert written(lines(OWN, f"./{name}"))["data"]["path"] == f"./{name}"
    assert prepared().num_in == 30


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Path("x.csv").touch(), "no row in it"),
        (lambda: Path("x.csv").write_text("question,answer\n"), "no row in it"),
        (lambda: Path("x.csv").write_text("text\nHello.\nYes.\n"), "have one column (text)"),
        (lambda: Path("x.jsonl").write_text("{\n[]\n"), "1 x bad JSON; 1 x not a JSON object"),
        (lambda: Path("x.csv").mkdir(), "no file to read in this folder"),
        (lambda: Path("x.png").write_bytes(b"\x89PNG"), "unsupported kind of file"),
        (lambda: Path("x.xlsx").write_bytes(b"PK\3\4"), "no Excel file that can be read"),
        (lambda: None, "no such file or folder"),
    ],
)
def test_data_without_a_question_leave_no_file_and_one_line(
    make: Any, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make()
    found = next(Path().iterdir(), Path("nope"))
    if found.is_dir():
        (found / "picture.png").write_bytes(b"\x89PNG")
    assert job("init", [str(found)]) == 2
    error = capsys.readouterr().err
    assert complaint in error and len(error.splitlines()) == 1
    assert not Path("cotray.yaml").exists()


def test_a_file_that_is_there_is_kept_unless_it_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    data = lines(OWN)
    Path("cotray.yaml").write_text("mine")
    assert job("init", [data]) == 2
    assert "cotray.yaml: is there already; --force overwrites it" in capsys.readouterr().err
    assert Path("cotray.yaml").read_text() == "mine"
    assert job("init", [data, "-o", "other.yaml"]) == 0 and Path("other.yaml").exists()
    assert "\n    cotray prepare -c other.yaml\n" in capsys.readouterr().out
    assert written(data, "--force")["data"] == {"path": data}
    assert job("init", [data, "-o", "none/x.yaml"]) == 2
    assert "none/x.yaml: cannot be written" in capsys.readouterr().err


def _bytes_read() -> int:
    return int(re.findall(r"rchar: (\d+)", Path("/proc/self/io").read_text())[0])


def test_of_a_million_rows_only_the_first_are_read() -> None:
    job("init", [lines(OWN, "b.jsonl"), "-o", "b.yaml"])  # which reads what is to be imported
    size = Path("a.csv").write_text("question,answer\n" + "Is a whale a fish?,no\n" * 10**6)
    before = _bytes_read()
    written("a.csv")
    assert _bytes_read() - before < size / 4


def test_what_is_commented_out_for_gpus_is_a_configuration_too() -> None:
    written(lines(OWN))
    text = Path("cotray.yaml").read_text()
    without = re.sub(r"^  model: .*\n", "", text, flags=re.MULTILINE)
    Path("gpu.yaml").write_text(re.sub(r"^  # ([a-z_]+: )", r"  \1", without, flags=re.MULTILINE))
    config = load_config("gpu.yaml")
    assert (config.teacher.model, config.teacher.prompt) == ("Qwen/Qwen3-8B", "chat")
    assert (
        config.teacher.num_gpus == config.student.training.num_gpus == config.simulator.training.num_gpus == 1
    )
    assert config.data.limit == 40 and config.run_dir == "runs/a"


def test_rows_that_are_not_understood_are_counted_in_the_file() -> None:
    written(lines([*OWN[:4], {"question": "Which?", "choices": ["a", "b"], "answer": "c"}]))
    text = Path("cotray.yaml").read_text()
    assert "# 4 of the first 5 rows are understood, as cotray, task yes_no.\n" in text
    assert "# 1 x no answer among the choices\n" in text
