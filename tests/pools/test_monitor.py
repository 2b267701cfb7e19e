"""What the monitor counts as the death of a replica, and when batches are written."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cotray.pools import gathered_batches, monitor
from cotray.pools.gathered_batches import GatheredBatches
from cotray.pools.monitor import BatchReport, Monitor
from cotray.records import Rationale, TeacherRequest
from cotray.storage.run_folder import RunFolder
from cotray.storage.shards import Shards


@pytest.fixture(autouse=True)
def nodes_are_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "_is_alive", lambda node: node != "lost")


def test_a_replica_that_dies_over_a_batch_is_counted_and_one_whose_node_was_lost_is_not() -> None:
    plain = Monitor()
    assert plain.begin("batch", "first", "node", ["a"]) == 0
    assert plain.begin("batch", "second", "lost", ["a"]) == 1
    assert plain.begin("batch", "third", "node", ["a"]) == 1


def test_a_batch_that_was_made_and_not_written_did_not_kill_its_replica() -> None:
    plain = Monitor()
    plain.begin("made", "first", "node", ["a"])
    plain.made("made", 1)
    plain.begin("next", "first", "node", ["b"])
    assert plain.read().rows == 1 and len(plain.read().under_way) == 1
    assert plain.begin("made", "second", "node", ["a"]) == 0
    assert plain.begin("next", "second", "node", ["b"]) == 1
    assert plain.read().rows == 0, "it is made again"


def test_a_batch_is_done_when_it_is_written() -> None:
    plain = Monitor()
    for batch in "ab":
        plain.begin(batch, "first", "node", [batch])
        plain.made(batch, 1)
    plain.end(["a", "b"], Counter(rows=2))
    assert plain.read().counts["rows"] == plain.read().rows == 2
    assert plain.begin("a", "second", "node", ["a"]) is None


class Calls:
    """Stands for the handle of an actor: calls run here."""

    def __init__(self, plain: Monitor) -> None:
        self._plain = plain

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._plain, name)
        return type("Remote", (), {"remote": staticmethod(method)})


@pytest.mark.parametrize(("is_local", "files"), [(True, [1, 1, 1, 1, 1]), (False, [3, 2])])
def test_on_object_storage_batches_of_half_a_minute_are_one_file(
    is_local: bool, files: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes 10 s; the last are written at the end of the unit."""
    clock = {"now": 0.0}
    monkeypatch.setattr(gathered_batches.time, "monotonic", lambda: clock["now"])
    monkeypatch.setattr(RunFolder, "is_local", is_local)
    monkeypatch.setattr(monitor.BatchReport, "__init__", report_here)
    shards = Shards(str(tmp_path), "requests", "rationales", Rationale, "v", lambda table: table["id"])
    plain = Monitor()
    gathered = GatheredBatches(shards, "part-00000")
    for name in "abcde":
        row = TeacherRequest(name, "yes_no", "Fly?", ("yes", "no"), "yes").to_row()
        report = BatchReport("rationales", Calls(plain), name, "replica", "node", [name])
        clock["now"] += 10
        gathered.add([Rationale.from_row(row)], report, Counter(rows=1))
    gathered.write()
    paths = shards.folder.parquet_files("rationales/.batches-v", recursive=True)
    assert sorted(shards.folder.num_rows(shards.folder.name_of(path)) for path in paths) == sorted(files)
    assert plain.read().counts["rows"] == 5 and not plain.attempts
    gathered.write()
    assert len(shards.folder.parquet_files("rationales/.batches-v", recursive=True)) == len(files)


def report_here(
    self: BatchReport, stage: str, calls: Any, batch: str, replica: str, node: str, ids: list[str]
) -> None:
    self.stage, self.monitor, self.batch, self.rows, self.sent_at = stage, calls, batch, 1, 0.0
    calls.begin.remote(batch, replica, node, ids)
