"""The run folder: records as Parquet, a manifest per stage, on any pyarrow filesystem (local, s3://).

A file appears under its name only when it is whole, and a stage's manifest is written last. So a
stage is in one of three states: done (manifest), under way (`started.json`), or not begun.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from cotray.data.storage import filesystem, open_file, storage_errors
from cotray.errors import DataError, StageError
from cotray.records import Record

R = TypeVar("R", bound=Record)
STAGES = ("requests", "rationales", "student", "answers", "simulator", "simulations")


@dataclass(frozen=True)
class DeadLetter(Record):
    """A row that could not be used, with the stage that gave up on it, why, and the row itself as JSON.

    Where a model was asked: how often, and with exactly which prompt.
    """

    stage: str
    id: str
    reason: str
    row: str
    attempts: int = 1
    prompt: str = ""


@dataclass(frozen=True)
class Manifest:
    """Written last: what a finished stage made, from which input, under which settings."""

    stage: str
    settings: dict[str, Any]
    input: str
    num_in: int
    num_out: int
    num_dead: int
    metrics: dict[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Identifies the output: the next stage's `input`."""
        return fingerprint(self.settings, self.input)


def fingerprint(*parts: Any) -> str:
    """A short stable hash of JSON-like values."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


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


class RunFolder:
    """One run's folder. Paths below it are written "requests/part-0.parquet"."""

    def __init__(self, root: str) -> None:
        self.fs, self._base = filesystem(root.rstrip("/"))
        # Absolute, because Ray's workers run in directories of their own.
        self.root = root.rstrip("/") if "://" in root else self._base

    def uri(self, name: str) -> str:
        """The full path of something in the folder, as other libraries take it."""
        return f"{self.root}/{name}"

    def exists(self, name: str) -> bool:
        with storage_errors(self.uri(name)):
            return self.fs.get_file_info(self._path(name)).type != pafs.FileType.NotFound

    def write_bytes(self, name: str, data: bytes) -> None:
        """All of it or nothing: by rename on a local disk, by one completed upload elsewhere."""
        path = self._path(name)
        target = path
        is_local = isinstance(self.fs, pafs.LocalFileSystem)
        with storage_errors(self.uri(name)):
            if is_local:  # elsewhere there are no folders, only names with slashes in them
                folder, _, leaf = path.rpartition("/")
                self.fs.create_dir(folder, recursive=True)
                target = f"{folder}/.{leaf}.{uuid.uuid4().hex}"
            with self.fs.open_output_stream(target) as stream:
                stream.write(data)
            if is_local:
                self.fs.move(target, path)

    def read_bytes(self, name: str) -> bytes:
        with storage_errors(self.uri(name)):
            try:
                with open_file(self.fs, self._path(name)) as file:
                    return file.read()
            except FileNotFoundError:
                raise DataError(f"{self.uri(name)}: no such file") from None

    def write_records(self, name: str, records: Sequence[R], record: type[R]) -> None:
        """Write one Parquet file."""
        self.write_table(name, pa.Table.from_pylist([r.to_row() for r in records], schema=schema_of(record)))

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write one Parquet file."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        self.write_bytes(name, sink.getvalue().to_pybytes())

    def read_table(self, name: str, columns: Sequence[str] = ()) -> pa.Table:
        """One Parquet file, or those of `columns` that it has."""
        with storage_errors(self.uri(name)), open_file(self.fs, self._path(name)) as stream:
            file = pq.ParquetFile(stream)
            has = file.schema_arrow.names
            return file.read(columns=[c for c in columns if c in has] if columns else None)

    def num_rows(self, name: str) -> int:
        """Rows of one Parquet file, from its footer."""
        with storage_errors(self.uri(name)), self.fs.open_input_file(self._path(name)) as stream:
            return pq.ParquetFile(stream).metadata.num_rows

    def read_records(self, stage: str, record: type[R]) -> Iterator[R]:
        """All records of a stage's Parquet files, file by file in name order."""
        for path in self.parquet_files(stage):
            name = path.removeprefix(f"{self._base}/")
            with storage_errors(self.uri(name)), open_file(self.fs, path) as file:
                for batch in pq.ParquetFile(file).iter_batches():
                    for row in batch.to_pylist():
                        yield record.from_row(row)

    def parquet_files(self, stage: str, *, recursive: bool = False) -> list[str]:
        """Paths, for this folder's filesystem, of the stage's finished Parquet files."""
        selector = pafs.FileSelector(self._path(stage), allow_not_found=True, recursive=recursive)
        with storage_errors(self.uri(stage)):
            infos = self.fs.get_file_info(selector)
        return sorted(
            i.path for i in infos if i.path.endswith(".parquet") and not i.base_name.startswith(".")
        )

    def subfolders(self, name: str) -> list[str]:
        """Names of the folders in a folder, sorted; none where it is not there."""
        selector = pafs.FileSelector(self._path(name), allow_not_found=True)
        with storage_errors(self.uri(name)):
            infos = self.fs.get_file_info(selector)
        return sorted(info.base_name for info in infos if info.type == pafs.FileType.Directory)

    def delete(self, name: str) -> None:
        """Delete a folder, if it is there."""
        if self.exists(name):
            with storage_errors(self.uri(name)):
                self.fs.delete_dir(self._path(name))

    def append_metrics(self, rows: Iterable[dict[str, Any]]) -> None:
        """Add lines to metrics.jsonl."""
        old = self.read_bytes("metrics.jsonl") if self.exists("metrics.jsonl") else b""
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        self.write_bytes("metrics.jsonl", old + lines.encode())

    def write_dead_letters(
        self, stage: str, letters: Sequence[DeadLetter], *, shard: str = "part-00000"
    ) -> None:
        """Replace the dead letters of one shard of a stage's input; without any, no file is left."""
        name = f"dead_letter/{stage}-{shard}.parquet"
        if letters:
            self.write_records(name, letters, DeadLetter)
        elif self.exists(name):
            self._delete_file(name)

    def manifest(self, stage: str) -> Manifest | None:
        if not self.exists(f"{stage}/manifest.json"):
            return None
        return Manifest(**json.loads(self.read_bytes(f"{stage}/manifest.json")))

    def require(self, stage: str, verb: str, *, settings: dict[str, Any] | None = None) -> Manifest:
        """The manifest of an earlier stage; DataError naming the verb to run where it is missing.

        StageError, naming the changed keys, where it was made under other `settings` than these.
        """
        manifest = self.manifest(stage)
        if manifest is None:
            raise DataError(f"{self.uri(stage)}: not finished; run `python -m jobs.{verb}` first")
        if settings is not None and (changes := _changes(manifest.settings, _plain(settings))):
            raise StageError(
                f"{self.uri(stage)} was made under another configuration ({'; '.join(changes)}). "
                f"Run `python -m jobs.{verb} --overwrite` first, or set run_dir to a new folder"
            )
        return manifest

    def begin(
        self, stage: str, *, settings: dict[str, Any], input: str, overwrite: bool
    ) -> Literal["done", "resume", "begin"]:
        """Whether the stage is done, has rows to go on from, or begins now.

        Raises StageError, naming the changed keys, where the output there is of another configuration
        or input; `overwrite` deletes it instead.
        """
        settings = _plain(settings)
        for name, state in (("manifest.json", "done"), ("started.json", "resume")):
            if not self.exists(f"{stage}/{name}"):
                continue
            there = json.loads(self.read_bytes(f"{stage}/{name}"))
            changes = _changes(there["settings"], settings)
            if there["input"] != input:
                changes.append("its input changed")
            if not changes and not (overwrite and state == "done"):
                return state  # type: ignore[return-value]
            if not overwrite:
                raise StageError(
                    f"{self.uri(stage)} was made under another configuration ({'; '.join(changes)}). "
                    "Pass --overwrite to make it again, or name a new folder (run_dir)"
                )
            self.delete(stage)
        for path in self.parquet_files("dead_letter"):
            leaf = path.rpartition("/")[2]
            if leaf.startswith(f"{stage}-"):
                self._delete_file(f"dead_letter/{leaf}")
        self.write_bytes(f"{stage}/started.json", json.dumps({"settings": settings, "input": input}).encode())
        return "begin"

    def finish(self, manifest: Manifest) -> Manifest:
        """Write the manifest, the last thing a stage does."""
        data = json.dumps(asdict(manifest), indent=1, sort_keys=True)
        self.write_bytes(f"{manifest.stage}/manifest.json", data.encode())
        self._delete_file(f"{manifest.stage}/started.json")
        return manifest

    def _delete_file(self, name: str) -> None:
        with storage_errors(self.uri(name)):
            self.fs.delete_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._base}/{name}"


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """As they come back from a file: tuples are lists there."""
    return json.loads(json.dumps(settings))


def _changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    flat_old, flat_new = _flatten(old), _flatten(new)
    keys = sorted(flat_old.keys() | flat_new.keys())
    return [
        f"{key}: {flat_old.get(key)} -> {flat_new.get(key)}"
        for key in keys
        if flat_old.get(key) != flat_new.get(key)
    ]


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
