"""What people's files look like: spreadsheets, other encodings, compression, archives, patterns."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import openpyxl
import pandas
import pyarrow as pa
import pytest

from cotray.config import DataConfig
from cotray.data.file_formats import Unreadable
from cotray.data.readers import input_fingerprint, read_rows
from cotray.errors import DataError

ROWS = [{"id": "a", "question": "Is it so?"}, {"id": "b", "question": "Why; then, not\there?"}]
LINES = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)


def rows_of(path: Path | str) -> list:
    return list(read_rows(DataConfig(path=str(path))))


def values_of(path: Path | str) -> list:
    return [row for _, row in rows_of(path)]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_csv_file_is_read_whatever_separates_its_columns(tmp_path: Path, separator: str, encoding: str):
    path = tmp_path / "a.csv"
    pandas.DataFrame(ROWS).to_csv(path, sep=separator, encoding=encoding, index=False, lineterminator="\r\n")
    assert rows_of(path) == [("a.csv:2", ROWS[0]), ("a.csv:3", ROWS[1])]


def test_a_separator_inside_a_quoted_name_does_not_count(tmp_path: Path):
    (tmp_path / "a.csv").write_text('"a,b,c";d\n1;2\n')
    (tmp_path / "b.tsv").write_text("a b\tc\n1, 2\t3\n")
    (tmp_path / "c.csv").write_text("alone\nx;y\n")
    assert values_of(tmp_path) == [{"a,b,c": "1", "d": "2"}, {"a b": "1, 2", "c": "3"}, {"alone": "x;y"}]


def test_a_file_that_is_not_utf8_says_what_to_do(tmp_path: Path):
    (tmp_path / "a.csv").write_bytes("id,question\nq1,Is café a drink?\n".encode("cp1252"))
    (row,) = values_of(tmp_path)
    assert isinstance(row, Unreadable) and row.reason == "not UTF-8; save the file as UTF-8"


def test_json_lines_may_be_in_utf16(tmp_path: Path):
    (tmp_path / "a.jsonl").write_bytes(LINES.decode().encode("utf-16"))
    assert values_of(tmp_path) == ROWS


def test_the_first_sheet_of_an_excel_file_is_read(tmp_path: Path):
    book = openpyxl.Workbook()
    sheet = book.worksheets[0]
    for row in (["id", "question", "answer"], [1, "How many?", 2.0], [None, None, None], [2, "Why?", "so"]):
        sheet.append(row)
    book.create_sheet("notes").append(["not", "read"])
    book.save(tmp_path / "a.xlsx")
    first, second = rows_of(tmp_path)
    assert first == ("a.xlsx:2", {"id": 1, "question": "How many?", "answer": 2})
    assert isinstance(first[1]["answer"], int)
    assert second == ("a.xlsx:4", {"id": 2, "question": "Why?", "answer": "so"})


@pytest.mark.parametrize(("suffix", "compress"), [(".gz", gzip.compress), (".bz2", bz2.compress)])
def test_compressed_files_are_read(tmp_path: Path, suffix: str, compress: Callable[[bytes], bytes]):
    (tmp_path / f"a.jsonl{suffix}").write_bytes(compress(LINES))
    assert rows_of(tmp_path) == [(f"a.jsonl{suffix}:1", ROWS[0]), (f"a.jsonl{suffix}:2", ROWS[1])]


def test_zstandard_is_read(tmp_path: Path):
    with pa.CompressedOutputStream(str(tmp_path / "a.jsonl.zst"), "zstd") as stream:
        stream.write(LINES)
    assert values_of(tmp_path) == ROWS


@pytest.mark.parametrize(("name", "mode"), [("a.tar", "w"), ("a.tgz", "w:gz")])
def test_an_archive_is_read_file_by_file_and_other_things_in_it_are_left_out(
    tmp_path: Path, name: str, mode: Literal["w", "w:gz"]
):
    frame = io.BytesIO()
    pandas.DataFrame(ROWS).to_parquet(frame)
    files = {
        "data/one.jsonl": LINES,
        "README.md": b"text",
        "data/._one.jsonl": b"\0",
        "two.parquet": frame.getvalue(),
        "three.csv.gz": gzip.compress(b"id;question\nc;Who?\n"),
    }
    with tarfile.open(tmp_path / name, mode) as archive:
        for file, data in files.items():
            info = tarfile.TarInfo(file)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("link.jsonl")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    assert rows_of(tmp_path) == [
        (f"{name}:data/one.jsonl:1", ROWS[0]),
        (f"{name}:data/one.jsonl:2", ROWS[1]),
        (f"{name}:two.parquet:1", ROWS[0]),
        (f"{name}:two.parquet:2", ROWS[1]),
        (f"{name}:three.csv.gz:2", {"id": "c", "question": "Who?"}),
    ]


def test_an_archive_cut_short_is_one_clear_line(tmp_path: Path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("one.jsonl")
        info.size = len(LINES) * 1000
        archive.addfile(info, io.BytesIO(LINES * 1000))
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(DataError, match=r"a\.tar.* cannot be read .*; repair or remove the file"):
        rows_of(path)


@pytest.mark.parametrize(
    ("begin", "kind"), [(b"PK\3\4", ".xlsx"), (b"PAR1", ".parquet"), (b"\x1f\x8b", ".gz")]
)
def test_a_file_of_another_kind_than_its_name_says_is_one_clear_line(tmp_path: Path, begin: bytes, kind: str):
    path = tmp_path / "a.csv"
    path.write_bytes(begin + b"\0" * 100)
    with pytest.raises(
        DataError, match=rf"a\.csv: it is no text, but looks like \{kind}; give it that suffix"
    ):
        rows_of(path)


def test_a_damaged_excel_file_is_one_clear_line(tmp_path: Path):
    (tmp_path / "a.xlsx").write_bytes(b"PK\3\4 and so on")
    with pytest.raises(DataError, match=r"a\.xlsx: it is no Excel file that can be read"):
        rows_of(tmp_path)


def test_a_pattern_names_the_files_it_is_like(tmp_path: Path):
    for name in ("a1.jsonl", "a2.jsonl", "b1.jsonl", "sub/a3.jsonl", "sub/deep/a4.jsonl", "a5.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(LINES)

    def origins(pattern: str) -> list[str]:
        return [origin for origin, _ in rows_of(f"{tmp_path}/{pattern}")][::2]

    assert origins("a*.jsonl") == ["a1.jsonl:1", "a2.jsonl:1"]
    assert origins("a?.jsonl") == origins("a[12].jsonl") == origins("a*.jsonl")
    assert origins("*/a*.jsonl") == ["sub/a3.jsonl:1"]
    assert origins("**/a*.jsonl")[-1] == "sub/deep/a4.jsonl:1" and len(origins("**/a*.jsonl")) == 4
    with pytest.raises(DataError, match="no file to read that is like this"):
        origins("c*.jsonl")
    with pytest.raises(DataError, match="no such file or folder"):
        origins("nowhere/c*.jsonl")


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path):
    (tmp_path / "a[1].jsonl").write_bytes(LINES)
    (tmp_path / "a1.jsonl").write_bytes(LINES * 2)
    assert len(rows_of(tmp_path / "a[1].jsonl")) == 2


def test_a_pattern_is_another_input_when_a_file_comes_to_it(tmp_path: Path):
    (tmp_path / "a1.jsonl").write_bytes(LINES)
    config = DataConfig(path=f"{tmp_path}/*.jsonl")
    before = input_fingerprint(config)
    (tmp_path / "a2.jsonl").write_bytes(LINES)
    assert input_fingerprint(config) != before
