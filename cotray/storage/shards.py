"""One stage's output while it is made, shard by shard of its input.

Replicas write what they make, in batches, below `TARGET/.batches-VERSION/SHARD/`; the same rows made again
replace their file. At the end the batches of a shard are sealed: merged into `TARGET/SHARD.parquet`,
every wanted row once, in the order of the input. Readers see sealed files alone. VERSION is the fingerprint
of input and settings, and every file says it too: rows of another configuration are never picked up, even if
a late replica still writes some.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import cached_property, partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cotray.errors import CotrayError, StageError
from cotray.records import Record
from cotray.storage.folder import schema_of
from cotray.storage.lease import NO_FENCE, Fence
from cotray.storage.manifest import FileEntry, fingerprint
from cotray.storage.run_folder import VERB_OF, RunFolder

SEALERS_PER_NODE = 2
"""Shards sealed at a time."""
SELECTED_BY = ("id", "kind", "split", "sample", "error")
"""Columns of a source that tell whether a row is wanted."""


@dataclass(frozen=True)
class Shard:
    """A file of the source stage, and what of the target existed when the driver looked.

    What is still waiting follows from this snapshot, so a shard that Ray reads again, after a node was
    lost, gives the same rows again.
    """

    name: str
    finished: tuple[str, ...]
    """Names, below the target, of files with rows of this shard."""


@dataclass(frozen=True)
class Shards:
    """From which stage to which, under which version."""

    root: str
    source: str
    target: str
    record: type[Record]
    """Of the target. A row whose column `error` is not empty is written, but tried again by the next run."""
    version: str
    is_wanted: Callable[[pa.Table], Any]
    """Which rows of a source table to process, as a boolean array; rows have `id` and `kind`."""
    num_per_record: int = 1
    """Target rows per source row, written together."""
    key: tuple[str, ...] = ("kind", "id")
    """Columns that tell the source's rows apart; the draws of one request differ in `sample` alone."""
    fence: Fence = NO_FENCE
    """Of the process at work, checked before a shard is sealed."""
    source_version: str | None = None
    """Of the source's rows; rows of another are refused. None is not compared."""

    @cached_property
    def folder(self) -> RunFolder:
        return RunFolder(self.root)

    def snapshot(self) -> list[Shard]:
        """Every shard of the source, in name order."""
        finished: dict[str, list[str]] = defaultdict(list)
        for path in self.folder.parquet_files(self.target):
            leaf = path.rpartition("/")[2]
            finished[leaf.removesuffix(".parquet")].append(leaf)
        for path in self.folder.parquet_files(f"{self.target}/{self._batches}", recursive=True):
            _, shard, leaf = path.rsplit("/", 2)
            finished[shard].append(f"{self._batches}/{shard}/{leaf}")
        return [Shard(shard, tuple(finished[shard])) for shard in self._source_shards()]

    def num_finished(self, shards: Sequence[Shard]) -> int:
        """Rows without an error in a snapshot; of batches the file names tell.

        A sealed shard's batches, which stay until all are sealed, are not counted beside it.
        """
        sealed = [f"{shard.name}.parquet" for shard in shards if f"{shard.name}.parquet" in shard.finished]
        batches = [
            name for shard in shards if f"{shard.name}.parquet" not in sealed for name in shard.finished
        ]
        with ThreadPoolExecutor(8) as threads:
            counts = threads.map(lambda name: self._good_keys(name).num_rows, sealed)
            return sum(counts) + sum(
                int(name.removesuffix(".parquet").rpartition("-")[2]) for name in batches
            )

    def num_wanted(self) -> int:
        """Source rows to process, counted file by file."""
        with ThreadPoolExecutor(8) as threads:
            tables = threads.map(lambda name: self._source(name, SELECTED_BY), self._source_shards())
            return sum(pc.sum(self.is_wanted(table)).as_py() or 0 for table in tables)  # type: ignore[attr-defined]

    def source_sizes(self) -> dict[str, int]:
        """Rows of each shard of the source, wanted or not, from its manifest or the files' footers."""
        names = self._source_shards()
        manifest = self.folder.manifest(self.source)
        known = {entry.name: entry.rows for entry in manifest.files or ()} if manifest else {}
        sizes_known = {name: known.get(f"{name}.parquet") for name in names}
        if None not in sizes_known.values():
            return sizes_known  # type: ignore[return-value]
        with ThreadPoolExecutor(8) as threads:
            sizes = threads.map(lambda name: self.folder.num_rows(f"{self.source}/{name}.parquet"), names)
            return dict(zip(names, sizes, strict=True))

    def waiting(self, shard: Shard) -> pa.Table:
        """The wanted rows that no file of the snapshot has."""
        table = self._wanted(shard.name)
        for name in shard.finished:
            is_done = pc.is_in(self._keys(table), self._keys(self._good_keys(name)))  # type: ignore[attr-defined]
            table = table.filter(pc.invert(is_done))  # type: ignore[attr-defined]
        return table

    def batch_file(self, shard: str, rows: Sequence[Any]) -> str:
        """Where rows made together go; the same rows go to the same file."""
        num_good = sum(not getattr(row, "error", "") for row in rows)
        return f"{self.target}/{self._batches}/{shard}/{self.batch_key(rows)}-{num_good}.parquet"

    def write(self, shard: str, rows: Sequence[Any]) -> None:
        self.folder.write_records(self.batch_file(shard, rows), rows, self.record, version=self.version)

    def seal(self, shard: Shard) -> tuple[pa.Table, int, FileEntry | None]:
        """The rows of one shard in the source's order, how many source rows have none yet, and its file.

        Without any missing they are written to the shard's file; done again, it does the same. Raises
        StageError where another process has taken over, or a file has rows of another version.
        """
        columns = [*SELECTED_BY, *(name for name in self.key if name not in SELECTED_BY)]
        source = self._source(shard.name, columns)
        expected = self._keys(source.filter(self.is_wanted(source)))
        name = f"{shard.name}.parquet"
        sealed = f"{self.target}/{name}"
        table = self._merge(expected, [f"{self.target}/{there}" for there in shard.finished])
        num_missing = len(expected) - table.num_rows // self.num_per_record
        if num_missing:
            return table, num_missing, None
        self.fence.check()
        if shard.finished == (name,):
            return table, 0, self.folder.entry(self.target, name)
        return table, 0, self.folder.write_table(sealed, table, version=self.version)

    def close(self) -> None:
        """Delete what is left of batches once every shard is sealed. Raises as `check_source` does."""
        self.check_source()
        self.folder.delete(f"{self.target}/{self._batches}")

    def adopt_all(self, other: RunFolder) -> None:
        """Take over the finished shards of another run's same stage; their rows count like batches."""
        manifest = other.require(self.target, VERB_OF[self.target])
        for path in other.parquet_files(self.target):
            leaf = path.rpartition("/")[2]
            table = other.read_table(f"{self.target}/{leaf}", version=manifest.version)
            shard = leaf.removesuffix(".parquet")
            num_good = table.num_rows - pc.sum(self._has_failed(table)).as_py() if table.num_rows else 0  # type: ignore[attr-defined]
            name = f"{self.target}/{self._batches}/{shard}/{fingerprint(shard)}-{num_good}.parquet"
            self.folder.write_table(name, table, version=self.version)

    @property
    def _batches(self) -> str:
        return f".batches-{self.version}"

    def _source_shards(self) -> list[str]:
        paths = self.folder.parquet_files(self.source)
        return [path.rpartition("/")[2].removesuffix(".parquet") for path in paths]

    def _wanted(self, name: str) -> pa.Table:
        table = self._source(name)
        return table.filter(self.is_wanted(table))

    def _source(self, name: str, columns: Sequence[str] = ()) -> pa.Table:
        """One shard of the source. StageError where another command has begun to make it anew."""
        path = f"{self.source}/{name}.parquet"
        try:
            return self.folder.read_table(path, columns, version=self.source_version)
        except CotrayError:
            self.check_source()
            raise

    def check_source(self) -> None:
        """StageError where the source is no longer the one that this stage is made from."""
        if self.source_version is None:
            return
        manifest = self.folder.manifest(self.source)
        if manifest is None or manifest.version != self.source_version:
            raise StageError(
                f"{self.folder.uri(self.source)}: another command makes it anew while {self.target} is made "
                "from it. Run the same command again when that one has ended"
            )

    def _good_keys(self, name: str) -> pa.Table:
        """The key columns of a target file's rows without an error."""
        there = self.folder.read_table(f"{self.target}/{name}", [*self.key, "error"], version=self.version)
        return there.filter(pc.invert(self._has_failed(there)))  # type: ignore[attr-defined]

    def _merge(self, expected: pa.Array, files: Sequence[str]) -> pa.Table:
        """Each expected key's rows from one file: the first in which they have no error, else the first."""
        schema = schema_of(self.record)
        with ThreadPoolExecutor(8) as threads:
            read = partial(self.folder.read_table, version=self.version)
            tables = [table.cast(schema) for table in threads.map(read, files)]
        failed = [self._has_failed(table) for table in tables]
        good = [table.filter(pc.invert(mask)) for table, mask in zip(tables, failed, strict=True)]  # type: ignore[attr-defined]
        bad = [table.filter(mask) for table, mask in zip(tables, failed, strict=True)]
        is_there = np.zeros(len(expected), bool)
        taken, places = [schema.empty_table()], [np.zeros(0, np.int64)]
        for table in [*good, *bad] if len(expected) else []:
            found = pc.fill_null(pc.index_in(self._keys(table), expected), -1)  # type: ignore[attr-defined]
            place = found.to_numpy(zero_copy_only=False)
            is_new = (place >= 0) & ~is_there[place]
            is_there[place[is_new]] = True
            taken.append(table.filter(pa.array(is_new)))
            places.append(place[is_new])
        order = np.argsort(np.concatenate(places), kind="stable")
        return pa.concat_tables(taken).take(pa.array(order))

    def batch_key(self, rows: Sequence[Any]) -> str:
        """The name of a batch: that of the rows in it, in any order."""
        return fingerprint(sorted("/".join(str(getattr(row, name)) for name in self.key) for row in rows))

    def _keys(self, table: pa.Table) -> pa.Array:
        columns = [self._column(table, name).cast(pa.string()) for name in self.key]
        keys = pc.binary_join_element_wise(*columns, "/")  # type: ignore[attr-defined]
        return keys.combine_chunks() if isinstance(keys, pa.ChunkedArray) else keys

    def _column(self, table: pa.Table, name: str) -> pa.Array | pa.ChunkedArray:
        """Rows of an earlier version have the record's default where they lack a column, as when read."""
        if name in table.column_names:
            return table[name]
        (default,) = (field.default for field in fields(self.record) if field.name == name)
        return pa.array([default] * table.num_rows, schema_of(self.record).field(name).type)

    def _has_failed(self, table: pa.Table) -> pa.Array:
        """Rows whose key has an error in any of its rows: the draws of one request stay together."""
        if "error" not in table.column_names:
            return pa.array(np.zeros(table.num_rows, bool))
        keys = self._keys(table)
        return pc.is_in(keys, keys.filter(pc.not_equal(table["error"], "").combine_chunks()))  # type: ignore[attr-defined]
