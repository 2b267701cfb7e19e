"""Folders of rows are read by the tools that people have, and folders of earlier formats by cotray."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from cotray.storage.run_folder import DeadLetter, Manifest, RunFolder

SETTINGS = {"seed": 42}
ROWS = [[DeadLetter("s", f"{shard}{n}", "why", "{}") for n in range(3)] for shard in "ab"]
IDS = ["a0", "a1", "a2", "b0", "b1", "b2"]


def finished(root: Path) -> RunFolder:
    folder = RunFolder(str(root))
    folder.begin("requests", settings=SETTINGS, input="in", overwrite=False)
    manifest = Manifest("requests", SETTINGS, "in", num_in=6, num_out=6, num_dead=0)
    for shard, rows in enumerate(ROWS):
        name = f"requests/part-0000{shard}.parquet"
        folder.write_records(name, rows, DeadLetter, version=manifest.fingerprint)
    folder.finish(manifest)
    return folder


def of_format_3(root: Path) -> Path:
    """The same folder as cotray wrote it before: the manifest beside the rows. Returns where that is."""
    state = root / "requests/.stage"
    tree = json.loads((state / "manifest.json").read_text())
    (root / "requests/manifest.json").write_text(json.dumps(tree | {"format": 3}))
    (state / "manifest.json").unlink()
    state.rmdir()
    return root / "requests/manifest.json"


@pytest.mark.parametrize(
    "read",
    [
        lambda folder, cache: pd.read_parquet(folder),
        lambda folder, cache: pq.read_table(folder).to_pandas(),
        lambda folder, cache: ds.dataset(folder).to_table().to_pandas(),
        lambda folder, cache: datasets.load_dataset(str(folder), split="train", cache_dir=cache),
        lambda folder, cache: datasets.load_dataset(
            "parquet", data_dir=str(folder), split="train", cache_dir=cache
        ),
    ],
    ids=["pandas", "pyarrow.parquet", "pyarrow.dataset", "datasets", "datasets-parquet"],
)
@pytest.mark.parametrize("is_under_way", [False, True])
def test_other_tools_read_the_folder_of_a_stage_as_it_is(
    tmp_path: Path, read: Callable[[Path, str], Any], is_under_way: bool
) -> None:
    folder = finished(tmp_path / "run")
    if is_under_way:
        folder.restart("requests", settings=SETTINGS, input="in")
        for shard, rows in enumerate(ROWS):
            folder.write_records(f"requests/part-0000{shard}.parquet", rows, DeadLetter)
    assert list(read(tmp_path / "run/requests", str(tmp_path / "cache"))["id"]) == IDS


def test_a_folder_of_format_3_is_done_and_is_made_again_where_its_settings_changed(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    manifest = folder.manifest("requests")
    early = of_format_3(tmp_path)
    there = folder.manifest("requests")
    assert manifest and there and (there.fingerprint, there.files) == (manifest.fingerprint, manifest.files)
    assert folder.begin("requests", settings=SETTINGS, input="in", overwrite=False) == "done"
    assert [row.id for row in folder.read_records("requests", DeadLetter)] == IDS
    assert folder.begin("requests", settings={"seed": 7}, input="in", overwrite=True) == "begin"
    assert not early.exists() and folder.manifest("requests") is None
    left = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert left == [Path("requests/.stage/started.json")]


def test_a_tombstone_of_format_3_never_counts_against_a_finished_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the two deletions at the end of a stage that an earlier version had begun to delete."""
    folder = RunFolder(str(tmp_path))
    (tmp_path / "requests").mkdir()
    tombstone = {"settings": {}, "input": "", "is_deleting": True, "format": 3}
    (tmp_path / "requests/started.json").write_text(json.dumps(tombstone))
    assert folder.begin("requests", settings=SETTINGS, input="in", overwrite=False) == "begin"
    delete, deleted = folder._delete_file, list[str]()

    def once(name: str) -> None:
        if deleted:
            raise KeyboardInterrupt
        deleted.append(name)
        delete(name)

    monkeypatch.setattr(folder, "_delete_file", once)
    with pytest.raises(KeyboardInterrupt):
        folder.finish(Manifest("requests", SETTINGS, "in", num_in=0, num_out=0, num_dead=0))
    again = RunFolder(str(tmp_path))
    assert again.manifest("requests") is not None
    assert again.begin("requests", settings=SETTINGS, input="in", overwrite=False) == "done"


def test_a_damaged_folder_of_format_3_is_repaired_into_the_format_of_now(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    early = of_format_3(tmp_path)
    (tmp_path / "requests/part-00001.parquet").unlink()
    assert folder.begin("requests", settings=SETTINGS, input="in", overwrite=False) == "resume"
    assert not early.exists() and folder.parquet_files("requests", recursive=True)
    version = folder.version("requests/part-00000.parquet")
    folder.write_records("requests/part-00001.parquet", ROWS[1], DeadLetter, version=version)
    made = folder.finish(Manifest("requests", SETTINGS, "in", num_in=6, num_out=6, num_dead=0))
    assert made.format == 4 and (tmp_path / "requests/.stage/manifest.json").is_file()
    assert folder.damage("requests", made) == []
