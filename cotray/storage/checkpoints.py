"""Checkpoints of a training run on its storage: whole ones alone count, and the last two are kept.

    CHECKPOINTS/step-00000012/   the files of every worker, `worker-0.json` lists those of worker 0, ...
                                 and `complete.json`, written last, lists them all
    CHECKPOINTS/precision.txt    the type of the computation, from the first step to the last

A checkpoint is usable if `complete.json` is there and every file has the size that it says.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pyarrow.fs as pafs

from cotray.storage.filesystems import (
    copy_file,
    delete_file,
    delete_folder,
    fetch_folder,
    filesystem,
    open_file,
    storage_errors,
    with_retries,
    write_file,
)
from cotray.storage.folder import hashed
from cotray.storage.manifest import FileEntry

NUM_KEPT = 2
POLL_S = 0.2
COMPLETE = "complete.json"
PRECISION = "precision.txt"

Precision = Literal["float32", "bfloat16"]


def discard(uri: str) -> None:
    """Delete what an interrupted or damaged run left under the name of a checkpoint."""
    fs, path = filesystem(uri)
    with storage_errors(uri):
        delete_file(fs, f"{path}/{COMPLETE}")
        delete_folder(fs, path)


def publish(local: str, uri: str, worker: int) -> None:
    """Put the files of a local folder, which one worker wrote, into the checkpoint `uri`."""
    sizes = {name: path.stat().st_size for name, path in _copied(local, uri)}
    fs, path = filesystem(uri)
    with storage_errors(uri):
        write_file(fs, f"{path}/worker-{worker}.json", json.dumps(sizes).encode())


def complete(uri: str, num_workers: int) -> None:
    """Make the checkpoint count as soon as every worker has published; older ones but one are deleted."""
    fs, path = filesystem(uri)
    sizes: dict[str, int] = {}
    with storage_errors(uri):
        for worker in range(num_workers):
            while True:
                with contextlib.suppress(FileNotFoundError):
                    sizes |= json.loads(_read(fs, f"{path}/worker-{worker}.json"))
                    break
                time.sleep(POLL_S)
        write_file(fs, f"{path}/{COMPLETE}", json.dumps(sizes, indent=1).encode())
        folder = path.rpartition("/")[0]
        for step in _steps(fs, folder)[:-NUM_KEPT]:
            delete_folder(fs, f"{folder}/{step}")


def settled_precision(folder: str, at_hand: Precision) -> Precision:
    """The type in which the run whose checkpoints lie in `folder` computes: `at_hand` from its first step on.

    So a run that was begun on one kind of node and goes on on another does not change its arithmetic.
    """
    fs, path = filesystem(folder)
    with storage_errors(folder):
        try:
            return "bfloat16" if _read(fs, f"{path}/{PRECISION}") == b"bfloat16" else "float32"
        except FileNotFoundError:
            write_file(fs, f"{path}/{PRECISION}", at_hand.encode())
            return at_hand


def newest(folder: str) -> tuple[str | None, list[str]]:
    """The URI of the newest usable checkpoint below `folder`, and why newer ones are not usable."""
    fs, path = filesystem(folder)
    damaged = []
    with storage_errors(folder):
        for step in reversed(_steps(fs, path)):
            if problem := _problem(fs, f"{path}/{step}"):
                damaged.append(f"{step}: {problem}")
            else:
                return f"{folder}/{step}", damaged
    return None, damaged


@contextlib.contextmanager
def as_folder(uri: str) -> Iterator[str]:
    """A checkpoint as a folder of this machine; from other storage it is copied here for so long."""
    fs, path = filesystem(uri)
    if isinstance(fs, pafs.LocalFileSystem):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="cotray-checkpoint-") as scratch:
        with_retries(lambda: _fetch(uri, Path(scratch)))
        yield scratch


def _fetch(uri: str, target: Path) -> None:
    fs, path = filesystem(uri)
    with storage_errors(uri):
        fetch_folder(fs, path, target)


def upload(local: str, uri: str) -> list[FileEntry]:
    """Copy a local folder's files, each whole or not at all; returns their entries for a manifest."""
    entries = []
    for name, source in _copied(local, uri):
        with source.open("rb") as stream:
            sha256, size = hashed(stream)
        entries.append(FileEntry(name, size, sha256))
    return entries


def _copied(local: str, uri: str) -> Iterator[tuple[str, Path]]:
    """Each file of a local folder, with its name below it, after it was copied."""
    fs, path = filesystem(uri)
    for source in sorted(Path(local).rglob("*")):
        if source.is_file():
            name = source.relative_to(local).as_posix()
            with storage_errors(f"{uri}/{name}"):
                copy_file(source, fs, f"{path}/{name}")
            yield name, source


def _read(fs: pafs.FileSystem, path: str) -> bytes:
    with open_file(fs, path) as file:
        return file.read()


def _steps(fs: pafs.FileSystem, folder: str) -> list[str]:
    infos = fs.get_file_info(pafs.FileSelector(folder, allow_not_found=True))
    return sorted(i.base_name for i in infos if not i.is_file and i.base_name.startswith("step-"))


def _problem(fs: pafs.FileSystem, path: str) -> str:
    """Why a checkpoint is not usable; "" if it is."""
    infos = fs.get_file_info(pafs.FileSelector(path, allow_not_found=True, recursive=True))
    sizes = {info.path.removeprefix(f"{path}/"): info.size for info in infos if info.is_file}
    if COMPLETE not in sizes:
        return "it was not finished"
    try:
        expected: dict[str, int] = dict(json.loads(_read(fs, f"{path}/{COMPLETE}")))
    except (ValueError, TypeError):
        return f"{COMPLETE} is damaged"
    for name, size in expected.items():
        if sizes.get(name) != size:
            return f"{name} has {sizes.get(name, 0):,} bytes instead of {size:,}"
    return ""
