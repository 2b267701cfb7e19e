"""One file -> its raw rows, each with its place in it: JSON, CSV, Parquet, Excel, and archives of these.

Rows are streamed, but for JSON arrays, UTF-16, Excel and what lies in archives, which are held one file at a
time. A row that cannot be read is yielded as `Unreadable`.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any, cast
from zipfile import BadZipFile

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from cotray.errors import ConfigError, DataError
from cotray.storage.filesystems import open_file

KINDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".xlsx", ".tar")
CODECS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
BINARY = {b"PK\3\4": ".xlsx", b"PAR1": ".parquet", b"\x1f\x8b": ".gz", b"\x28\xb5\x2f\xfd": ".zst"}
"""How files begin that are not text, and what such files are called."""
SEPARATORS = ",;\t|"
BUFFER_BYTES = 1 << 20  # of an object on S3 that is read bit by bit, each a request
MAX_SHOWN_CHARS = 4000
NOT_UTF8 = "not UTF-8; save the file as UTF-8"


@dataclass(frozen=True)
class Unreadable:
    """A row that is not one: why, and what of it could be decoded."""

    reason: str
    text: str = ""


Row = dict[str, Any] | Unreadable
Placed = Iterator[tuple[str, Row]]
"""Rows with their places: a line or a number from 1, in an archive behind the file's name."""


def kind_of(path: str) -> str:
    """Of the suffixes in KINDS the one that a file has, without that of its compression; "" for others."""
    name = path.lower()
    if name.endswith(".tgz"):
        return ".tar"
    suffix = PurePosixPath(name.removesuffix(PurePosixPath(name).suffix if _codec(name) else "")).suffix
    return suffix if suffix in KINDS else ""


def read_file(fs: pafs.FileSystem, path: str) -> Placed:
    """Raises DataError where the file is of another kind than its name says, and OSError, ArrowException or
    TarError where it cannot be read to its end."""
    file: Any = open_file(fs, path)
    if codec := _codec(path):
        file = pa.CompressedInputStream(file, codec)
    elif kind_of(path) == ".parquet":
        yield from _read_parquet(file)
        return
    with io.BufferedReader(file, BUFFER_BYTES) as stream:
        yield from _read_stream(stream, kind_of(path))


def _codec(path: str) -> str:
    suffix = PurePosixPath(path.lower()).suffix
    return "gzip" if suffix == ".tgz" else CODECS.get(suffix, "")


def _read_stream(stream: io.BufferedReader, kind: str) -> Placed:
    match kind:
        case ".tar":
            yield from _read_tar(stream)
            return
        case ".parquet":
            yield from _read_parquet(io.BytesIO(stream.read()))
            return
        case ".xlsx":
            yield from _read_excel(io.BytesIO(stream.read()))
            return
    text = _utf8(stream)
    match kind:
        case ".csv" | ".tsv":
            yield from _read_csv(text)
        case ".json":
            yield from _read_json(text)
        case _:
            yield from _read_json_lines(text)


def _utf8(stream: io.BufferedReader) -> io.BufferedReader:
    """The stream, or what it holds in UTF-16, as Windows writes it, in UTF-8."""
    begin = stream.peek(4)[:4]
    for magic, suffix in BINARY.items():
        if begin.startswith(magic):
            raise DataError(f"it is no text, but looks like {suffix}; give it that suffix")
    if not begin.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return stream
    text = stream.read().decode("utf-16", "surrogatepass").encode("utf-8", "replace")
    return io.BufferedReader(cast(io.RawIOBase, io.BytesIO(text)))


def _read_tar(stream: IO[bytes]) -> Placed:
    """Files of the kinds that are read otherwise, in the order of the archive."""
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            name = PurePosixPath(member.name).name
            kind = kind_of(name)
            if not member.isfile() or kind in ("", ".tar") or name.startswith((".", "_")):
                continue
            file: Any = archive.extractfile(member)
            if codec := _codec(name):
                file = pa.CompressedInputStream(pa.PythonFile(file), codec)
            with io.BufferedReader(file, BUFFER_BYTES) as inner:
                for place, row in _read_stream(inner, kind):
                    yield f"{member.name}:{place}", row


def _read_json_lines(stream: io.BufferedIOBase) -> Placed:
    for number, line in enumerate(stream, 1):
        line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        if line.strip():
            yield str(number), _parse_line(line)


def _parse_line(line: bytes) -> Row:
    shown = line[:MAX_SHOWN_CHARS].decode("utf-8", "replace").strip()
    if b"\0" in line:
        return Unreadable("NUL byte", shown)
    try:
        value = json.loads(line.decode())
    except UnicodeDecodeError:
        return Unreadable(NOT_UTF8, shown)
    except (ValueError, RecursionError):
        return Unreadable("bad JSON", shown)
    return value if isinstance(value, dict) else Unreadable("not a JSON object", shown)


def _read_json(stream: io.BufferedReader) -> Placed:
    """One array of objects or one object over several lines (held in memory), else JSON lines."""
    if not re.match(rb"\[|\{\s*\n", stream.peek(64).removeprefix(codecs.BOM_UTF8).lstrip()):
        yield from _read_json_lines(stream)
        return
    data = stream.read()
    try:
        values = json.loads(data.removeprefix(codecs.BOM_UTF8).decode())
    except (ValueError, RecursionError):
        yield from _read_json_lines(io.BytesIO(data))
        return
    for number, value in enumerate(values if isinstance(values, list) else [values], 1):
        is_row = isinstance(value, dict)
        yield str(number), value if is_row else Unreadable("not a JSON object", str(value)[:MAX_SHOWN_CHARS])


def _read_csv(stream: io.BufferedReader) -> Placed:
    """The first row names the columns; the place is the line that a row begins on."""
    separator = _separator(stream.peek(BUFFER_BYTES))
    text = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
    lines = csv.reader(text, delimiter=separator)
    header: list[str] | None = None
    while True:
        number = lines.line_num + 1
        try:
            values = next(lines)
        except StopIteration:
            return
        except csv.Error as error:
            yield str(number), Unreadable(f"bad CSV ({error})")
            continue
        if header is None:
            header = [name.strip() for name in values]
        elif values:
            yield str(number), _csv_row(header, values)


def _separator(begin: bytes) -> str:
    """What separates the names of the columns: the character that the first line has most of, outside
    quotes."""
    line = re.sub(rb'"[^"]*"', b"", begin.split(b"\n")[0]).decode("utf-8", "replace")
    return max(SEPARATORS, key=line.count)


def _csv_row(header: list[str], values: list[str]) -> Row:
    text = ",".join(values)
    shown = text[:MAX_SHOWN_CHARS].encode("utf-8", "replace").decode()
    if "\0" in text:
        return Unreadable("NUL byte", shown)
    if not is_unicode(text):
        return Unreadable(NOT_UTF8, shown)
    if len(values) != len(header):
        return Unreadable("wrong number of CSV columns", shown)
    return dict(zip(header, values, strict=True))


def is_unicode(text: str) -> bool:
    """Whether text has no lone surrogates, which no file and no Arrow column can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_parquet(file: Any) -> Placed:
    number = 0
    with file:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=1000):
            for row in _rows_of(batch):
                number += 1
                yield str(number), row


def _rows_of(batch: pa.RecordBatch) -> list[Row]:
    try:
        return batch.to_pylist()
    except ValueError:
        if batch.num_rows == 1:
            return [Unreadable("not UTF-8 or not readable as Python values")]
        return [row for index in range(batch.num_rows) for row in _rows_of(batch.slice(index, 1))]


def _read_excel(file: io.BytesIO) -> Placed:
    """The first sheet; its first row names the columns. Formulas count by the value that was saved."""
    try:
        from openpyxl import load_workbook
    except ImportError:
        raise ConfigError("an Excel file needs openpyxl: pip install 'cotray[excel]'") from None
    try:
        sheet = load_workbook(file, read_only=True, data_only=True).worksheets[0]
        rows = sheet.iter_rows(values_only=True)
        header = [str(name or "").strip() for name in next(rows, ())]
        for number, values in enumerate(rows, 2):
            if any(value is not None for value in values):
                yield str(number), dict(zip(header, map(_cell, values), strict=False))
    # openpyxl lets through whatever its zip and XML parsers raise.
    except (KeyError, ValueError, IndexError, OSError, SyntaxError, BadZipFile) as error:
        raise DataError(f"it is no Excel file that can be read ({error})") from None


def _cell(value: Any) -> Any:
    """Excel has one kind of number: whole ones are integers. Dates are text."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if value is None or isinstance(value, str | int | float) else str(value)
