"""The run folder: records as Parquet, a manifest per stage, on any pyarrow filesystem (local, s3://).

A file appears under its name only when it is whole, and a stage's manifest is written last. So a
stage is in one of four states: done (`.stage/manifest.json`), under way (`.stage/started.json`), being
deleted (`started.json` as a tombstone, which is written before the first file goes), or not begun. Every
Parquet file of a stage carries the version of its rows, the fingerprint of settings and input; files of
another are refused.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import pyarrow.fs as pafs
import pyarrow.parquet as pq

from cotray.errors import DataError, StageError
from cotray.records import Record
from cotray.storage.filesystems import filesystem, open_file, storage_errors
from cotray.storage.folder import schema_of
from cotray.storage.manifest import (
    DamagedFile,
    FileEntry,
    Manifest,
    Started,
    Work,
    changes,
    fingerprint,
    installed_versions,
    plain,
)
from cotray.storage.stage_states import STATE, STATE_FILES, StageStates

__all__ = ["DeadLetter", "FileEntry", "Manifest", "RunFolder", "filesystem", "fingerprint", "schema_of"]

R = TypeVar("R", bound=Record)
CHECKPOINTS = "checkpoints"
VERB_OF = {
    "requests": "prepare",
    "rationales": "generate",
    "assessments": "assess",
    "mle_student": "train",
    **dict.fromkeys(("samples", "conseq_examples", "examples", "student"), "train"),
    "answers": "score",
    "simulator_examples": "score",
    "simulator": "score",
    "simulations": "score",
    **dict.fromkeys(("other_requests", "other_rationales", "other_answers", "probes"), "probe"),
}
"""Which verb makes a stage of a run."""


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


class RunFolder(StageStates):
    """One run's folder, with its stages."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self._began: dict[str, float] = {}
        """When stages were begun through this object, in seconds since the epoch."""

    def read_records(self, stage: str, record: type[R], columns: Sequence[str] = ()) -> Iterator[R]:
        """All records of a stage's Parquet files, file by file in name order.

        `columns`: those that are read; () = all. StageError where a file's rows are of another version.
        """
        state = self.manifest(stage) or self.started(stage)
        version = state.version if state is not None else None
        for path in self.parquet_files(stage):
            name = path.removeprefix(f"{self._base}/")
            with storage_errors(self.uri(name)), open_file(self.fs, path) as stream:
                file = pq.ParquetFile(stream)
                self.check_version(name, file, version)
                there = [name for name in columns if name in file.schema_arrow.names]
                for batch in file.iter_batches(columns=there or None):
                    for row in batch.to_pylist():
                        yield record.from_row(row)

    def write_dead_letters(
        self, stage: str, letters: Sequence[DeadLetter], *, shard: str = "part-00000"
    ) -> None:
        """Replace the dead letters of one shard of a stage's input; without any, no file is left."""
        name = f"dead_letter/{stage}-{shard}.parquet"
        if letters:
            self.write_records(name, letters, DeadLetter)
        elif self.exists(name):
            self._delete_file(name)

    def dead_letters(self, stage: str) -> set[str]:
        """Shards of a stage's input that have dead letters."""
        names = [
            path.rpartition("/")[2].removesuffix(".parquet") for path in self.parquet_files("dead_letter")
        ]
        return {name.removeprefix(f"{stage}-") for name in names if name.startswith(f"{stage}-")}

    def require(
        self, stage: str, verb: str, *, settings: dict[str, Any] | None = None, input: str | None = None
    ) -> Manifest:
        """The manifest of an earlier stage, whose files are all there.

        DataError naming the verb to run where it is missing or files are. StageError, naming the changed
        keys, where it was made under other `settings` or from another `input` than these.
        """
        manifest = self.manifest(stage)
        if manifest is None:
            raise DataError(f"{self.uri(stage)}: not finished; run `cotray {verb}` first")
        if settings is not None and (found := changes(manifest, settings, input)):
            raise StageError(
                f"{self.uri(stage)} was made under another configuration ({'; '.join(found)}). "
                f"Run `cotray {verb} --overwrite` first, or set run_dir to a new folder"
            )
        if damage := self.damage(stage, manifest):
            raise DataError(
                f"{self.uri(stage)}: {'; '.join(damage[:3])}{'; ...' if len(damage) > 3 else ''}. "
                f"Run `cotray {verb}` to make it again"
            )
        return manifest

    def damage(self, stage: str, manifest: Manifest) -> list[str]:
        """Files that are missing, cut or foreign, in words, by names and sizes alone: nothing is read."""
        if manifest.files is None:
            return []
        sizes = self._sizes(stage)
        found = []
        for entry in manifest.files:
            size = sizes.get(entry.name)
            if size is None:
                found.append(f"{entry.name} is missing")
            elif size != entry.size:
                found.append(f"{entry.name} has {size:,} bytes instead of {entry.size:,}")
        known = {entry.name for entry in manifest.files}
        foreign = sorted(name for name in sizes if name.endswith(".parquet") and name not in known)
        return found + [f"{name} is no file of this stage" for name in foreign]

    def begin(
        self, stage: str, *, settings: dict[str, Any], input: str, overwrite: bool
    ) -> Literal["done", "resume", "begin"]:
        """Whether the stage is done, has rows to go on from, or begins now.

        Raises StageError, naming the changed keys, where the output there is of another configuration
        or input; `overwrite` deletes it instead. A stage that has made nothing is never in the way. What
        is missing of a finished stage is made again.
        """
        settings = plain(settings)
        self._began[stage] = time.time()
        try:
            started, manifest = self.started(stage), self._read_state(Manifest, stage)
        except DamagedFile:
            if not overwrite:
                raise
            return self.restart(stage, settings=settings, input=input)
        if started is not None and started.is_deleting:
            return self.restart(stage, settings=settings, input=input)
        there = manifest or started
        if there is None:
            is_other = any(
                self.version(path.removeprefix(f"{self._base}/")) != fingerprint(settings, input)
                for path in self.parquet_files(stage)
            )
            if is_other and not overwrite:
                raise StageError(
                    f"{self.uri(stage)} has rows of another configuration. Pass --overwrite to delete them, "
                    "or name a new folder (run_dir)"
                )
            if is_other:
                return self.restart(stage, settings=settings, input=input)
            self.write_state(stage, Started(settings, input))
            return "begin"
        found = changes(there, settings, input)
        if not found:
            return self._repair(stage, manifest) if manifest else "resume"
        if not overwrite and (manifest is not None or self.has_made(stage)):
            raise StageError(
                f"{self.uri(stage)} was made under another configuration ({'; '.join(found)}). "
                "Pass --overwrite to make it again, or name a new folder (run_dir)"
            )
        return self.restart(stage, settings=settings, input=input)

    def restart(self, stage: str, *, settings: dict[str, Any], input: str) -> Literal["begin"]:
        """Delete all of a stage, and begin it."""
        self._clear(stage)
        self.write_state(stage, Started(plain(settings), input))
        return "begin"

    def abandon(self, stage: str) -> None:
        """Delete all of a stage that came to nothing, but its dead letters, which say why."""
        self._clear(stage, dead_letters=False)
        self._delete_state(Started, stage)
        if not self._sizes(stage):
            self.delete(stage)

    def has_made(self, stage: str) -> bool:
        """Whether there is work in the stage's folder that deleting it would lose."""
        names = self._sizes(stage, hidden=True)
        return any(
            name.endswith("/complete.json") if name.startswith(f"{CHECKPOINTS}/") else True
            for name in names
            if name not in STATE_FILES and not name.rpartition("/")[2].startswith(".")
        )

    def finish(
        self, manifest: Manifest, files: Sequence[FileEntry] = (), work: Work | None = None
    ) -> Manifest:
        """Write the manifest, the last thing a stage does; then delete what it no longer needs.

        files: those whose entry is known; the others are read.
        """
        stage, known = manifest.stage, {entry.name: entry for entry in files}
        sizes = self._sizes(stage)
        entries = []
        for name, size in sorted(sizes.items()):
            entry = known.get(name)
            entries.append(entry if entry and entry.size == size else self.entry(stage, name))
        if lost := sorted(known.keys() - sizes.keys()):
            raise DataError(f"{self.uri(stage)}: {', '.join(lost)} went away; run the same command again")
        manifest = replace(
            manifest,
            settings=plain(manifest.settings),
            files=tuple(entries),
            versions=installed_versions(),
            times=self._times(stage, work),
        )
        self.write_state(stage, manifest)
        self._tidy(stage)
        return manifest

    def _times(self, stage: str, work: Work | None) -> dict[str, float]:
        if work is None or stage not in self._began:
            return {}
        parts = {
            "start_s": work.began - self._began[stage],
            "work_s": work.ended - work.began,
            "end_s": time.time() - work.ended,
        }
        return {name: round(seconds, 3) for name, seconds in parts.items()}

    def _repair(self, stage: str, manifest: Manifest) -> Literal["done", "resume"]:
        """Make a finished stage one under way again, if files of it are missing or cut."""
        damage = self.damage(stage, manifest)
        if not damage:
            self._tidy(stage)
            return "done"
        print(f"{self.uri(stage)}: {'; '.join(damage[:3])}; made again", file=sys.stderr, flush=True)
        self.write_state(stage, Started(manifest.settings, manifest.input))
        self._delete_state(Manifest, stage)
        sizes = self._sizes(stage)
        right = {entry.name for entry in manifest.files or () if sizes.get(entry.name) == entry.size}
        for name in sizes.keys() - right:
            self._delete_file(f"{stage}/{name}")
        return "resume"

    def _clear(self, stage: str, *, dead_letters: bool = True) -> None:
        """The tombstone, then the manifest, then all else: killed at any point, the next `begin` goes on."""
        self.write_state(stage, Started({}, "", is_deleting=True))
        self._delete_state(Manifest, stage)
        if dead_letters:
            for shard in sorted(self.dead_letters(stage)):
                self._delete_file(f"dead_letter/{stage}-{shard}.parquet")
        for folder in self.subfolders(stage):
            if folder != STATE:
                self.delete(f"{stage}/{folder}")
        for name in self._sizes(stage, hidden=True):
            if name not in STATE_FILES:
                self._delete_file(f"{stage}/{name}")

    def _tidy(self, stage: str) -> None:
        """Delete what only a stage under way needs, also if the run before was cut off before it did."""
        for folder in self.subfolders(stage):
            if folder == CHECKPOINTS or folder.startswith(".batches-"):
                self.delete(f"{stage}/{folder}")
        self._delete_state(Started, stage)

    def _sizes(self, stage: str, *, hidden: bool = False) -> dict[str, int]:
        """Bytes of every file below a stage's folder, without its manifest and what is only under way."""
        selector = pafs.FileSelector(self._path(stage), allow_not_found=True, recursive=True)
        with storage_errors(self.uri(stage)):
            infos = self.fs.get_file_info(selector)
        sizes = {i.path.removeprefix(f"{self._path(stage)}/"): i.size or 0 for i in infos if i.is_file}
        if hidden:
            return sizes
        return {
            name: size
            for name, size in sizes.items()
            if name not in STATE_FILES
            and not name.startswith(f"{CHECKPOINTS}/")
            and not any(part.startswith(".") for part in name.split("/"))
        }
