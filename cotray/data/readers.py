"""Raw rows from wherever `data.path` points: the sample, the world, files, folders, s3:// or a Hugging Face
data set.

Rows are streamed in a fixed order (files by name), each with its origin "file:line". A row that cannot
be read is yielded as `Unreadable`; a source that cannot be read is a DataError.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
from fsspec.utils import glob_translate

from cotray.config import DataConfig
from cotray.data.file_formats import CODECS, KINDS, Row, Unreadable, kind_of, read_file
from cotray.data.hub import HUB, commit_of, read_hub
from cotray.errors import DataError
from cotray.storage.filesystems import filesystem, reason_of
from cotray.storage.run_folder import fingerprint
from cotray.world.questions import rows

MAX_ROW_CHARS = 2000
NUM_HASHED_BYTES = 64 << 20
PATTERN = re.compile(r"[*?\[]")
"""What makes a path a pattern of paths."""


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
        yield from ((f"{config.path}:{number}", row) for number, row in read_hub(config))
        return
    fs, base, files = _locate(config.path)
    for file in files:
        name = _relative(file, base)
        try:
            for place, row in read_file(fs, file.path):
                yield f"{name}:{place}", row
        except DataError as error:
            raise DataError(f"{config.path}: {name}: {error}") from None
        except (OSError, pa.ArrowException, tarfile.TarError) as error:
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
        return fingerprint(config.path, commit_of(config))
    fs, base, files = _locate(config.path)
    return fingerprint([[_relative(file, base), *_identity(fs, file)] for file in files])


def input_identity(config: DataConfig) -> list[Any]:
    """Changes with every write to the input, also one that puts back what was there; cheap, not stored."""
    if config.is_world:
        return []
    if config.path.startswith(HUB):
        return [commit_of(config)]
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
    way_out = "give a file, folder or pattern, s3://..., hf:ID, sample or world"
    try:
        fs, base = filesystem(path)
        info = fs.get_file_info(base)
        matches = None
        if info.type == pafs.FileType.NotFound and (wild := PATTERN.search(base)):
            matches = re.compile(glob_translate(base))
            base = base[: wild.start()].rpartition("/")[0]
            info = fs.get_file_info(base or ".")
        if info.type == pafs.FileType.NotFound:
            raise DataError(f"{path}: no such file or folder; {way_out}")
        found = [info] if info.is_file else fs.get_file_info(pafs.FileSelector(base, recursive=True))
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be opened ({reason_of(error)}); {way_out}") from None
    if matches is not None:
        found = [file for file in found if matches.fullmatch(file.path)]
    files = [f for f in found if f.is_file and kind_of(f.path) and f.base_name[0] not in "._"]
    if not files:
        kinds = f"{', '.join(KINDS)}, and these with {', '.join(CODECS)}"
        problem = "unsupported kind of file" if info.is_file else "no file to read in this folder"
        problem = "no file to read that is like this" if matches else problem
        raise DataError(f"{path}: {problem}; cotray reads {kinds}")
    folder = base.rpartition("/")[0] if info.is_file else base.rstrip("/")
    return fs, folder, sorted(files, key=lambda file: file.path)


def _relative(file: pafs.FileInfo, folder: str) -> str:
    return file.path.removeprefix(folder).lstrip("/")
