"""A finished stage as a kill would have left it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cotray.records import Record
from cotray.storage.manifest import Manifest, Started
from cotray.storage.run_folder import RunFolder
from cotray.storage.stage_states import places


def interrupt(folder: RunFolder, stage: str, rows: Sequence[Any], record: type[Record]) -> None:
    """Its manifest is gone, and of its first shard these rows alone are there."""
    manifest = folder.require(stage, "generate")
    folder.write_state(stage, Started(manifest.settings, manifest.input))
    folder.fs.delete_file(f"{folder.root}/{places(Manifest, stage)[0]}")
    folder.write_records(f"{stage}/part-00000.parquet", rows, record, version=manifest.fingerprint)


def replace_rows(folder: RunFolder, stage: str, rows: Sequence[Any], record: type[Record]) -> None:
    """Other rows in the first shard of a finished stage, as if it had made them."""
    manifest = folder.require(stage, "generate")
    folder.write_records(f"{stage}/part-00000.parquet", rows, record, version=manifest.fingerprint)
    folder.finish(manifest)
