"""What a stage writes while it runs: batches, then one sealed file per shard, every row once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotray.errors import StageError
from cotray.records import Assessment, Rationale, TeacherRequest
from cotray.storage.manifest import FileEntry, Manifest
from cotray.storage.run_folder import RunFolder
from cotray.storage.shards import Shards


def is_factual(table: pa.Table) -> Any:
    return pc.equal(table["kind"], "factual")  # type: ignore[attr-defined]


def request(number: int, kind: Any = "factual") -> TeacherRequest:
    return TeacherRequest(f"q{number}", "yes_no", "Fly?", ("yes", "no"), "yes", kind=kind)


def rationale(of: TeacherRequest, text: str = "It flies.", **fields: Any) -> Rationale:
    return Rationale.from_row(of.to_row() | {"rationale": text, **fields})


def shards_of(root: Path, sizes: Sequence[int] = (4, 3), *, num_draws: int = 1, version: str = "v") -> Shards:
    """Source shards with a counterfactual request, which is not wanted, after every factual one."""
    folder, number = RunFolder(str(root)), 0
    for index, size in enumerate(sizes):
        rows = []
        for _ in range(size):
            rows += [request(number), request(number, "counterfactual")]
            number += 1
        folder.write_records(f"requests/part-{index:05d}.parquet", rows, TeacherRequest)
    return Shards(str(root), "requests", "rationales", Rationale, version, is_factual, num_draws)


def waiting(shards: Shards) -> list[str]:
    return [id for shard in shards.snapshot() for id in shards.waiting(shard)["id"].to_pylist()]


def sealed(shards: Shards, name: str) -> tuple[pa.Table, int, FileEntry | None]:
    return shards.seal(next(shard for shard in shards.snapshot() if shard.name == name))


def rows_of(shards: Shards) -> list[Rationale]:
    return list(shards.folder.read_records("rationales", Rationale))


def test_only_wanted_rows_wait(tmp_path: Path) -> None:
    shards = shards_of(tmp_path)
    assert shards.num_wanted() == 7
    assert waiting(shards) == [f"q{n}" for n in range(7)]
    sizes = {"part-00000": 8, "part-00001": 6}
    assert shards.source_sizes() == sizes
    entries = [FileEntry(f"{name}.parquet", 1, "", rows + 100) for name, rows in sizes.items()]
    shards.folder.write_state("requests", Manifest("requests", {}, "a", 14, 14, 0, files=tuple(entries)))
    assert shards.source_sizes() == {"part-00000": 108, "part-00001": 106}, "no file was opened"


def test_a_source_that_another_command_makes_anew_ends_the_stage_made_from_it(tmp_path: Path) -> None:
    version = Manifest("requests", {}, "a", 14, 14, 0).fingerprint
    shards = replace(shards_of(tmp_path), source_version=version)
    folder = shards.folder
    for name in ("part-00000", "part-00001"):
        table = folder.read_table(f"requests/{name}.parquet")
        folder.write_table(f"requests/{name}.parquet", table, version=version)
    folder.finish(Manifest("requests", {}, "a", 14, 14, 0))
    assert waiting(shards) == [f"q{n}" for n in range(7)]
    (snapshot, _) = shards.snapshot()
    folder.restart("requests", settings={}, input="b")
    for work in (lambda: shards.waiting(snapshot), lambda: shards.seal(snapshot), shards.close):
        with pytest.raises(StageError, match="requests: another command makes it anew while rationales is"):
            work()
    folder.write_records("requests/part-00000.parquet", [request(0)], TeacherRequest, version="of b")
    with pytest.raises(StageError, match="another command makes it anew"):
        shards.waiting(snapshot)


def test_a_damaged_shard_of_a_source_that_nobody_makes_anew_is_named(tmp_path: Path) -> None:
    shards = replace(shards_of(tmp_path), source_version=Manifest("requests", {}, "a", 14, 14, 0).fingerprint)
    shards.folder.finish(Manifest("requests", {}, "a", 14, 14, 0))
    with pytest.raises(StageError, match=r"part-00000.parquet: its rows are of another configuration"):
        shards.num_wanted()


def test_written_rows_wait_no_more_and_rows_with_an_error_do(tmp_path: Path) -> None:
    shards = shards_of(tmp_path)
    shards.write("part-00000", [rationale(request(1)), rationale(request(2), "", error="no memory")])
    assert shards.num_finished(shards.snapshot()) == 1
    assert waiting(shards) == ["q0", "q2", "q3", "q4", "q5", "q6"]


def test_readers_see_nothing_before_the_seal_and_every_row_in_order_after(tmp_path: Path) -> None:
    shards = shards_of(tmp_path, [4])
    shards.write("part-00000", [rationale(request(3)), rationale(request(0))])
    shards.write("part-00000", [rationale(request(2)), rationale(request(1))])
    assert rows_of(shards) == []
    assert sealed(shards, "part-00000")[1] == 0
    assert rows_of(shards) == [rationale(request(n)) for n in range(4)]
    shards.close()
    assert [path.name for path in (tmp_path / "rationales").iterdir()] == ["part-00000.parquet"]


def test_a_shard_sealed_again_because_its_sealer_died_is_the_same(tmp_path: Path) -> None:
    shards = shards_of(tmp_path, [4])
    shards.write("part-00000", [rationale(request(n)) for n in range(4)])
    (shard,) = shards.snapshot()
    assert shards.seal(shard)[1:] == shards.seal(shard)[1:]
    (again,) = shards.snapshot()
    assert shards.num_finished([again]) == 4, "batches stay until all shards are sealed"
    assert shards.seal(again)[1:] == shards.seal(shard)[1:]


def test_a_row_made_twice_is_there_once_and_the_one_without_an_error_wins(tmp_path: Path) -> None:
    shards = shards_of(tmp_path, [3])
    shards.write("part-00000", [rationale(request(0), "", error="no memory"), rationale(request(1))])
    shards.write(
        "part-00000", [rationale(request(0), "second"), rationale(request(1)), rationale(request(2))]
    )
    assert sealed(shards, "part-00000")[1] == 0
    assert [(r.id, r.rationale) for r in rows_of(shards)] == [
        ("q0", "second"),
        ("q1", "It flies."),
        ("q2", "It flies."),
    ]


def test_a_shard_with_rows_missing_is_not_sealed_and_says_how_many(tmp_path: Path) -> None:
    shards = shards_of(tmp_path, [4])
    shards.write("part-00000", [rationale(request(1))])
    table, num_missing, _ = sealed(shards, "part-00000")
    assert (table.num_rows, num_missing) == (1, 3)
    assert rows_of(shards) == [] and waiting(shards) == ["q0", "q2", "q3"]


def test_a_sealed_shard_with_errors_is_opened_again(tmp_path: Path) -> None:
    shards = shards_of(tmp_path, [2])
    shards.write("part-00000", [rationale(request(0)), rationale(request(1), "", error="no memory")])
    sealed(shards, "part-00000")
    assert waiting(shards) == ["q1"] and shards.num_finished(shards.snapshot()) == 1
    shards.write("part-00000", [rationale(request(1), "now")])
    assert sealed(shards, "part-00000")[1] == 0
    assert [r.rationale for r in rows_of(shards)] == ["It flies.", "now"]


def test_draws_of_one_request_stay_together_also_if_one_failed(tmp_path: Path) -> None:
    shards = shards_of(tmp_path, [1], num_draws=2)
    first = rationale(request(0))
    shards.write("part-00000", [first, replace(first, sample=1, rationale="", error="no memory")])
    assert waiting(shards) == ["q0"]
    assert sealed(shards, "part-00000")[1] == 0
    assert [(r.sample, r.error) for r in rows_of(shards)] == [(0, ""), (1, "no memory")]


def test_rows_of_another_version_are_never_picked_up(tmp_path: Path) -> None:
    old, new = shards_of(tmp_path, [2], version="old"), shards_of(tmp_path, [2], version="new")
    old.write("part-00000", [rationale(request(0)), rationale(request(1))])
    assert waiting(new) == ["q0", "q1"]
    assert sealed(new, "part-00000")[1] == 2


def test_a_shard_without_wanted_rows_is_an_empty_file(tmp_path: Path) -> None:
    shards = shards_of(tmp_path, [1])
    shards.folder.write_records("requests/part-00001.parquet", [request(9, "counterfactual")], TeacherRequest)
    assert [sealed(shards, "part-00001")[1:] for _ in range(2)] == [(0, sealed(shards, "part-00001")[2])] * 2
    assert (tmp_path / "rationales" / "part-00001.parquet").is_file()


def test_a_snapshot_stays_as_it_was_taken(tmp_path: Path) -> None:
    shards = shards_of(tmp_path, [2])
    (before,) = shards.snapshot()
    shards.write("part-00000", [rationale(request(0))])
    assert shards.waiting(before)["id"].to_pylist() == ["q0", "q1"]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 12).flatmap(
        lambda n: st.tuples(st.just(n), st.lists(st.integers(0, n), max_size=4), st.booleans())
    )
)
def test_however_rows_are_cut_into_batches_the_sealed_file_is_the_same(case) -> None:
    import tempfile

    size, cuts, is_repeated = case
    with tempfile.TemporaryDirectory() as root:
        shards = shards_of(Path(root), [size])
        edges = sorted({0, size, *cuts})
        for _ in range(2 if is_repeated else 1):
            for start, end in pairwise(edges):
                shards.write("part-00000", [rationale(request(n)) for n in range(start, end)])
            edges = sorted({0, size, size // 2})
        assert sealed(shards, "part-00000")[1] == 0
        assert rows_of(shards) == [rationale(request(n)) for n in range(size)]


def test_a_source_of_an_earlier_version_without_a_key_column_is_sealed_under_the_default(
    tmp_path: Path,
) -> None:
    """Rationales had no `sample` once; read back, each is sample 0."""
    folder = RunFolder(str(tmp_path))
    old = pa.Table.from_pylist([rationale(request(n)).to_row() for n in range(3)]).drop_columns(["sample"])
    folder.write_table("rationales/part-00000.parquet", old)
    shards = Shards(
        folder.root, "rationales", "assessments", Assessment, "v", is_factual, key=("kind", "id", "sample")
    )
    assert waiting(shards) == ["q0", "q1", "q2"]
    read = folder.read_records("rationales", Rationale)
    shards.write("part-00000", [Assessment.from_row(row.to_row() | {"num_words": 2}) for row in read])
    assert waiting(shards) == []
    sealed(shards, "part-00000")
    read = folder.read_records("assessments", Assessment)
    assert [(row.id, row.sample, row.num_words) for row in read] == [(f"q{n}", 0, 2) for n in range(3)]
