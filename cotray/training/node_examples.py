"""The examples of a training run on one node: a stage's Parquet files as one that is mapped into memory.

Parquet is small and is what every stage is kept in, but one row of it cannot be read alone; of Arrow's own
format it can, from a local file. So whichever worker of a node comes first writes such a file into
COTRAY_CACHE, from local disk or S3, and all workers of the node share its pages.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from filelock import FileLock

from cotray.models.locations import cache_dir
from cotray.seeds import digest
from cotray.storage.run_folder import RunFolder
from cotray.training.examples import SCHEMA, Examples, Index, index_of

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA, LENGTHS = "examples.arrow", "lengths.npy"
DAYS_KEPT = 7
"""What a killed run left behind serves the same command again for so long."""


class StageExamples(NamedTuple):
    """A finished stage of examples; `version` is that of its rows."""

    root: str
    stage: str
    version: str

    def opened(self) -> Examples:
        """Mapped into memory, after the node's file has been made if it is not there."""
        return opened(_on_this_node(self))

    def forget(self) -> None:
        """Delete the node's file; processes that have it open keep it."""
        shutil.rmtree(_place(self), ignore_errors=True)


def opened(folder: Path) -> Examples:
    reader = pa.ipc.open_file(pa.memory_map(str(folder / DATA)))
    batches = [reader.get_batch(n) for n in range(reader.num_record_batches)]
    names = [path for path in folder.glob("*.npy") if path.name != LENGTHS]
    numbers = {path.stem: np.load(path, mmap_mode="r") for path in names}
    return Examples(batches, Index(numbers, np.load(folder / LENGTHS, mmap_mode="r")))


def write(batches: Iterator[pa.RecordBatch], folder: Path) -> None:
    """One Arrow file, one batch of rows after the other, and where in it which examples are."""
    with pa.OSFile(str(folder / DATA), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        for batch in batches:
            writer.write_batch(batch)
    reader = pa.ipc.open_file(pa.memory_map(str(folder / DATA)))
    index = index_of([reader.get_batch(n) for n in range(reader.num_record_batches)])
    np.save(folder / LENGTHS, index.lengths)
    for name, numbers in index.numbers.items():
        np.save(folder / f"{name}.npy", numbers)


def _on_this_node(stage: StageExamples) -> Path:
    place = _place(stage)
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{place}.lock"):
        if not place.is_dir():
            _delete_old(place.parent)
            scratch = Path(tempfile.mkdtemp(prefix=".making-", dir=place.parent))
            try:
                write(_batches(stage), scratch)
                os.rename(scratch, place)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    return place


def _batches(stage: StageExamples) -> Iterator[pa.RecordBatch]:
    folder = RunFolder(stage.root)
    for path in folder.parquet_files(stage.stage):
        name = f"{stage.stage}/{path.rpartition('/')[2]}"
        yield from folder.read_table(name, version=stage.version).cast(SCHEMA).to_batches()


def _place(stage: StageExamples) -> Path:
    return cache_dir() / "examples" / f"{stage.version}-{digest(0, stage.root, stage.stage):016x}"


def _delete_old(folder: Path) -> None:
    for path in folder.iterdir():
        if time.time() - path.stat().st_mtime > DAYS_KEPT * 86400:
            path.unlink() if path.is_file() else shutil.rmtree(path, ignore_errors=True)
