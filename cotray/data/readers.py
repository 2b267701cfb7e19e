"""Raw rows from wherever `data.path` points: the sample, the world, files, folders, s3:// or a Hugging Face
data set.

Rows are streamed in a fixed order (files by name), each with its origin "file:line". A row that cannot
be read is yielded as `Unreadable`; a source that cannot be read is a DataError.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import hashlib
import io
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from cotray.config import DataConfig
from cotray.errors import ConfigError, DataError
from cotray.storage.filesystems import filesystem, open_file, reason_of
from cotray.storage.run_folder import fingerprint
from cotray.world.questions import rows

HUB = "hf:"
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
MAX_ROW_CHARS = 2000
NUM_HASHED_BYTES = 64 << 20
BUFFER_BYTES = 1 << 20  # of an object on S3 that is read bit by bit, each a request


@dataclass(frozen=True)
class Unreadable:
    """A row that is not one: why, and what of it could be decoded."""

    reason: str
    text: str = ""


Row = dict[str, Any] | Unreadable
Numbered = Iterator[tuple[int, Row]]


def row_text(row: Row) -> str:
    """The beginning of a row as JSON, for its dead letter."""
    try:
        value = row.text if isinstance(row, Unreadable) else row
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (RecursionError, ValueError, TypeError):
        return '"(cannot be written as JSON)"'
    return text[:MAX_ROW_CHARS].encode("utf-8", "replace").decode()


def read_rows(config: DataConfig) -> Iterator[tuple[str, Row]]:
    """Every row of the input, in order; blank lines are no rows."""
    if config.is_world:
        made = rows(config.world, dev_fraction=config.dev_fraction, test_fraction=config.test_fraction)
        yield from ((f"{config.path}:{number}", row) for number, row in enumerate(made, 1))
        return
    if config.path.startswith(HUB):
        yield from _read_hub(config)
        return
    fs, base, files = _locate(config.path)
    for file in files:
        name = _relative(file, base)
        try:
            for number, row in _read_file(fs, file.path):
                yield f"{name}:{number}", row
        except (OSError, pa.ArrowException) as error:
            raise DataError(
                f"{config.path}: {name} cannot be read ({reason_of(error)}); repair or remove the file"
            ) from None


def input_fingerprint(config: DataConfig) -> str:
    """Changes with the input: by content up to 64 MiB on a local disk, else by name, size and time.

    A Hugging Face data set is identified by its id and the commit that `data.revision` stands for now.
    """
    if config.is_world:
        return fingerprint(config.path, *(row for _, row in read_rows(config)))
    if config.path.startswith(HUB):
        return fingerprint(config.path, _commit_of(config))
    fs, base, files = _locate(config.path)
    return fingerprint([[_relative(file, base), *_identity(fs, file)] for file in files])


def input_identity(config: DataConfig) -> list[Any]:
    """Changes with every write to the input, also one that puts back what was there; cheap, not stored."""
    if config.is_world:
        return []
    if config.path.startswith(HUB):
        return [_commit_of(config)]
    fs, base, files = _locate(config.path)
    identities = []
    for file in files:
        own: list[Any] = [_relative(file, base), file.size, file.mtime_ns]
        if isinstance(fs, pafs.LocalFileSystem):
            status = os.stat(file.path)
            own += [status.st_ino, status.st_ctime_ns]
        identities.append(own)
    return identities


def _identity(fs: pafs.FileSystem, file: pafs.FileInfo) -> list[Any]:
    if isinstance(fs, pafs.LocalFileSystem) and file.size <= NUM_HASHED_BYTES:
        return [hashlib.blake2b(Path(file.path).read_bytes()).hexdigest()]
    return [file.size, file.mtime_ns]


def _locate(path: str) -> tuple[pafs.FileSystem, str, list[pafs.FileInfo]]:
    """The filesystem, the folder that names are relative to, and the files in name order."""
    if path == "sample":
        path = str(resources.files("cotray.data").joinpath("sample"))
    way_out = "give a file or folder, s3://..., hf:ID, sample or world"
    try:
        fs, base = filesystem(path)
        info = fs.get_file_info(base)
        if info.type == pafs.FileType.NotFound:
            raise DataError(f"{path}: no such file or folder; {way_out}")
        found = [info] if info.is_file else fs.get_file_info(pafs.FileSelector(base, recursive=True))
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be opened ({reason_of(error)}); {way_out}") from None
    files = [f for f in found if f.is_file and _suffix(f.path) in SUFFIXES and f.base_name[0] not in "._"]
    if not files:
        kinds = f"{', '.join(SUFFIXES)} or one of the first three with .gz"
        problem = "unsupported kind of file" if info.is_file else "no file to read in this folder"
        raise DataError(f"{path}: {problem}; cotray reads {kinds}")
    folder = base.rpartition("/")[0] if info.is_file else base.rstrip("/")
    return fs, folder, sorted(files, key=lambda file: file.path)


def _relative(file: pafs.FileInfo, folder: str) -> str:
    return file.path.removeprefix(folder).lstrip("/")


def _suffix(path: str) -> str:
    return PurePosixPath(path.removesuffix(".gz")).suffix.lower()


def _read_file(fs: pafs.FileSystem, path: str) -> Numbered:
    if _suffix(path) == ".parquet":
        with open_file(fs, path) as file:
            yield from _read_parquet(file)
        return
    file = open_file(fs, path)
    if path.endswith(".gz"):
        file = pa.CompressedInputStream(file, "gzip")
    with io.BufferedReader(file, BUFFER_BYTES) as stream:  # type: ignore[arg-type]
        match _suffix(path):
            case ".csv":
                yield from _read_csv(stream)
            case ".json":
                yield from _read_json(stream)
            case _:
                yield from _read_json_lines(stream)


def _read_json_lines(stream: io.BufferedIOBase) -> Numbered:
    for number, line in enumerate(stream, 1):
        line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        if line.strip():
            yield number, _parse_line(line)


def _parse_line(line: bytes) -> Row:
    shown = line[:4000].decode("utf-8", "replace").strip()
    if b"\0" in line:
        return Unreadable("NUL byte", shown)
    try:
        value = json.loads(line.decode())
    except UnicodeDecodeError:
        return Unreadable("not UTF-8", shown)
    except (ValueError, RecursionError):
        return Unreadable("bad JSON", shown)
    return value if isinstance(value, dict) else Unreadable("not a JSON object", shown)


def _read_json(stream: io.BufferedReader) -> Numbered:
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
        yield number, value if isinstance(value, dict) else Unreadable("not a JSON object", str(value)[:4000])


def _read_csv(stream: io.BufferedReader) -> Numbered:
    """The first row names the columns; the number is that of the line a row begins on."""
    lines = csv.reader(io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline=""))
    header: list[str] | None = None
    while True:
        number = lines.line_num + 1
        try:
            values = next(lines)
        except StopIteration:
            return
        except csv.Error as error:
            yield number, Unreadable(f"bad CSV ({error})")
            continue
        if header is None:
            header = [name.strip() for name in values]
        elif values:
            yield number, _csv_row(header, values)


def _csv_row(header: list[str], values: list[str]) -> Row:
    text = ",".join(values)
    shown = text[:4000].encode("utf-8", "replace").decode()
    if "\0" in text:
        return Unreadable("NUL byte", shown)
    if not is_unicode(text):
        return Unreadable("not UTF-8", shown)
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


def _read_parquet(file: pa.NativeFile) -> Numbered:
    number = 0
    for batch in pq.ParquetFile(file).iter_batches(batch_size=1000):
        for row in _rows_of(batch):
            number += 1
            yield number, row


def _rows_of(batch: pa.RecordBatch) -> list[Row]:
    try:
        return batch.to_pylist()
    except ValueError:
        if batch.num_rows == 1:
            return [Unreadable("not UTF-8 or not readable as Python values")]
        return [row for index in range(batch.num_rows) for row in _rows_of(batch.slice(index, 1))]


def _read_hub(config: DataConfig) -> Iterator[tuple[str, Row]]:
    with _hub_errors(config):
        import datasets

        name = config.path.removeprefix(HUB)
        revision = _commit_of(config) or None
        rows = datasets.load_dataset(name, split=config.dataset_split, revision=revision, streaming=True)
        for number, row in enumerate(rows, 1):
            yield f"{config.path}:{number}", dict(row)


def _commit_of(config: DataConfig) -> str:
    """The full id of the commit that `data.revision` names; "" for a data set in a local folder."""
    name = config.path.removeprefix(HUB)
    if Path(name).is_dir():
        return ""
    with _hub_errors(config):
        from huggingface_hub import HfApi

        return HfApi().dataset_info(name, revision=config.revision).sha or ""


@contextlib.contextmanager
def _hub_errors(config: DataConfig) -> Iterator[None]:
    try:
        yield
    except GeneratorExit:
        raise
    except ImportError:
        raise ConfigError(
            f"data.path={config.path} needs the datasets library: pip install cotray[hub]"
        ) from None
    # Whatever the network, the hub or the data set's builder raises: there is no common base class.
    except Exception as error:
        raise DataError(
            f"{config.path}: cannot be read ({reason_of(error)}); check the id, data.revision="
            f"{config.revision}, data.dataset_split={config.dataset_split} and the network, or download it "
            "and set data.path to the folder"
        ) from error
