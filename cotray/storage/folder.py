"""A folder on any of pyarrow's filesystems: whole files, and records as Parquet."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import fields
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from cotray.errors import DataError, StageError
from cotray.records import Record
from cotray.storage.filesystems import (
    delete_file,
    delete_folder,
    filesystem,
    open_file,
    storage_errors,
    write_file,
)
from cotray.storage.manifest import FileEntry

R = TypeVar("R", bound=Record)
VERSION_KEY = b"cotray.version"
CHUNK_BYTES = 8 << 20


def schema_of(record: type[Record]) -> pa.Schema:
    """The Arrow schema of a record, from its annotations; empty tables have it too."""
    hints = get_type_hints(record)
    return pa.schema([(f.name, _arrow_type(hints[f.name])) for f in fields(record)])


def _arrow_type(hint: Any) -> pa.DataType:
    if get_origin(hint) is UnionType:  # a value or None
        hint = next(part for part in get_args(hint) if part is not type(None))
    if get_origin(hint) is tuple:
        return pa.list_(_arrow_type(get_args(hint)[0]))
    return {int: pa.int64(), float: pa.float64(), bool: pa.bool_()}.get(hint, pa.string())


class Folder:
    """Paths below it are written "requests/part-0.parquet"."""

    def __init__(self, root: str) -> None:
        self.fs, self._base = filesystem(root.rstrip("/"))
        # Absolute, because Ray's workers run in directories of their own.
        self.root = root.rstrip("/") if "://" in root else self._base

    @property
    def is_local(self) -> bool:
        """On a disk, or what is mounted like one; else each access is a request."""
        return isinstance(self.fs, pafs.LocalFileSystem)

    def uri(self, name: str) -> str:
        """The full path of something in the folder, as other libraries take it."""
        return f"{self.root}/{name}"

    def name_of(self, path: str) -> str:
        """Of something in the folder by its path for the filesystem, as `parquet_files` has it."""
        return path.removeprefix(f"{self._base}/")

    def exists(self, name: str) -> bool:
        with storage_errors(self.uri(name)):
            return self.fs.get_file_info(self._path(name)).type != pafs.FileType.NotFound

    def write_bytes(self, name: str, data: bytes) -> None:
        """All of it or nothing."""
        with storage_errors(self.uri(name)):
            write_file(self.fs, self._path(name), data)

    def read_bytes(self, name: str) -> bytes:
        with storage_errors(self.uri(name)):
            try:
                with open_file(self.fs, self._path(name)) as file:
                    return file.read()
            except FileNotFoundError:
                raise DataError(f"{self.uri(name)}: no such file") from None

    def write_records(
        self, name: str, records: Sequence[R], record: type[R], *, version: str = ""
    ) -> FileEntry:
        """Write one Parquet file, of rows of this version."""
        table = pa.Table.from_pylist([r.to_row() for r in records], schema=schema_of(record))
        return self.write_table(name, table, version=version)

    def write_table(
        self, name: str, table: pa.Table, *, version: str = "", metadata: dict[bytes, bytes] | None = None
    ) -> FileEntry:
        """Write one Parquet file, of rows of this version; returns its entry for the manifest."""
        sink = pa.BufferOutputStream()
        said = {**(metadata or {}), **({VERSION_KEY: version.encode()} if version else {})}
        pq.write_table(table.replace_schema_metadata(said or None), sink)
        data = sink.getvalue().to_pybytes()
        self.write_bytes(name, data)
        return FileEntry.of(name.partition("/")[2], data, table.num_rows)

    def read_table(self, name: str, columns: Sequence[str] = (), *, version: str | None = None) -> pa.Table:
        """One Parquet file, or those of `columns` that it has.

        StageError where its rows are of another `version`; None is not compared.
        """
        with storage_errors(self.uri(name)), open_file(self.fs, self._path(name)) as stream:
            file = pq.ParquetFile(stream)
            self.check_version(name, file, version)
            has = file.schema_arrow.names
            return file.read(columns=[c for c in columns if c in has] if columns else None)

    def num_rows(self, name: str) -> int:
        """Rows of one Parquet file, from its footer."""
        with storage_errors(self.uri(name)), self.fs.open_input_file(self._path(name)) as stream:
            return pq.ParquetFile(stream).metadata.num_rows

    def entry(self, stage: str, name: str) -> FileEntry:
        """What a manifest says of a file that is there, from reading all of it."""
        uri = self.uri(f"{stage}/{name}")
        with storage_errors(uri), self.fs.open_input_stream(self._path(f"{stage}/{name}")) as stream:
            sha256, size = hashed(stream)
        rows = self.num_rows(f"{stage}/{name}") if name.endswith(".parquet") else None
        return FileEntry(name, size, sha256, rows)

    def parquet_files(self, stage: str, *, recursive: bool = False) -> list[str]:
        """Paths, for this folder's filesystem, of the stage's finished Parquet files."""
        selector = pafs.FileSelector(self._path(stage), allow_not_found=True, recursive=recursive)
        with storage_errors(self.uri(stage)):
            infos = self.fs.get_file_info(selector)
        return sorted(
            i.path for i in infos if i.path.endswith(".parquet") and not i.base_name.startswith(".")
        )

    def subfolders(self, name: str = "") -> list[str]:
        """Names of the folders in a folder, sorted; none where it is not there."""
        infos = self._inside(name)
        return sorted(info.base_name for info in infos if info.type == pafs.FileType.Directory)

    def file_names(self, name: str, suffix: str) -> list[str]:
        """Of the finished files in a folder, sorted; none where it is not there."""
        names = [info.base_name for info in self._inside(name) if info.type == pafs.FileType.File]
        return sorted(leaf for leaf in names if leaf.endswith(suffix) and not leaf.startswith("."))

    def _inside(self, name: str) -> list[pafs.FileInfo]:
        selector = pafs.FileSelector(self._path(name).rstrip("/"), allow_not_found=True)
        with storage_errors(self.uri(name)):
            return self.fs.get_file_info(selector)

    def delete(self, name: str) -> None:
        """Delete a folder, if it is there."""
        with storage_errors(self.uri(name)):
            delete_folder(self.fs, self._path(name))

    def append_metrics(self, rows: Iterable[dict[str, Any]]) -> None:
        """Add lines to metrics.jsonl; one that is there, because a stage was cut off after it, stays one."""
        old = self.read_bytes("metrics.jsonl") if self.exists("metrics.jsonl") else b""
        there = set(old.decode().splitlines())
        lines = [line for row in rows if (line := json.dumps(row)) not in there]
        if lines or not old:
            self.write_bytes("metrics.jsonl", old + "".join(f"{line}\n" for line in lines).encode())

    def check_version(self, name: str, file: pq.ParquetFile, version: str | None) -> None:
        """StageError where a Parquet file's rows are of another version, or of none that is known."""
        if version is not None and version_of(file.schema_arrow) != version:
            raise StageError(
                f"{self.uri(name)}: its rows are of another configuration or input than the rest of the "
                "stage. Delete the file, and the verb that makes the stage makes its rows again"
            )

    def version(self, name: str) -> str:
        """Of the rows in a Parquet file; "" where it has none."""
        return self.metadata(name).get(VERSION_KEY, b"").decode()

    def metadata(self, name: str) -> dict[bytes, bytes]:
        """What is said of a Parquet file's rows as a whole."""
        with storage_errors(self.uri(name)), open_file(self.fs, self._path(name)) as stream:
            return dict(pq.ParquetFile(stream).schema_arrow.metadata or {})

    def _delete_file(self, name: str) -> None:
        with storage_errors(self.uri(name)):
            delete_file(self.fs, self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._base}/{name}"


def version_of(schema: pa.Schema) -> str:
    """Of the rows in a Parquet file; "" where it has none."""
    return (schema.metadata or {}).get(VERSION_KEY, b"").decode()


def hashed(stream: Any) -> tuple[str, int]:
    """SHA-256 in hexadecimal, as `sha256sum` prints it, and the number of bytes."""
    digest, size = hashlib.sha256(), 0
    while chunk := stream.read(CHUNK_BYTES):
        digest.update(chunk)
        size += len(chunk)
    return digest.hexdigest(), size
