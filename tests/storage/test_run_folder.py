from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cotray.errors import DataError, StageError
from cotray.records import (
    Assessment,
    QAPair,
    Rationale,
    Record,
    Simulation,
    StudentAnswer,
    TeacherRequest,
    TrainExample,
)
from cotray.storage.manifest import Work
from cotray.storage.run_folder import DeadLetter, Manifest, RunFolder, filesystem, fingerprint, schema_of

RECORDS = [QAPair, TeacherRequest, Rationale, Assessment, TrainExample, StudentAnswer, Simulation, DeadLetter]
SETTINGS = {"seed": 42, "data": {"limit": 0, "format": "auto"}}


def manifest_of(stage: str = "requests", **change: Any) -> Manifest:
    fields = {"stage": stage, "settings": SETTINGS, "input": "in", "num_in": 3, "num_out": 2, "num_dead": 1}
    return Manifest(**fields | change)


def filled(record: type[Record]) -> Record:
    """A record whose every field has a value of its type."""
    values = {
        "str": "text \u00e9\n",
        "int": 3,
        "bool": True,
        "float": 0.5,
        "int | None": 4,
        "float | None": -0.5,
        "bool | None": False,
        "tuple[str, ...]": ("a", ""),
        "tuple[float, ...]": (-0.5, 0.0),
    }
    by_field = {field.name: values.get(str(field.type), "train") for field in dataclasses.fields(record)}
    return record(**by_field)


def minimal(record: type[Record]) -> Record:
    """A record with all defaults, and empty values where there is none."""
    hints = get_type_hints(record)
    required = [f for f in dataclasses.fields(record) if f.default is dataclasses.MISSING]
    return record(**{f.name: () if str(hints[f.name]).startswith("tuple") else "" for f in required})


@pytest.mark.parametrize("record", RECORDS)
def test_every_record_comes_back_equal(tmp_path, record):
    folder = RunFolder(str(tmp_path))
    records = [filled(record), minimal(record)]
    folder.write_records("stage/part-0.parquet", records, record)
    assert list(folder.read_records("stage", record)) == records
    assert pq.read_schema(tmp_path / "stage/part-0.parquet").equals(schema_of(record))


@pytest.mark.parametrize("record", RECORDS)
def test_an_empty_table_has_the_schema_too(tmp_path, record):
    RunFolder(str(tmp_path)).write_records("stage/part-0.parquet", [], record)
    table = pq.read_table(tmp_path / "stage/part-0.parquet")
    assert table.schema.equals(schema_of(record)) and table.num_rows == 0


def test_columns_have_the_types_of_the_annotations():
    schema = schema_of(Rationale)
    assert schema.field("choices").type == pa.list_(pa.string())
    assert schema.field("grounded_logprobs").type == pa.list_(pa.float64())
    assert schema.field("num_tokens").type == pa.int64()
    assert schema.field("kind").type == pa.string()
    assert schema_of(StudentAnswer).field("wrote_answer").type == pa.bool_()


def test_unknown_columns_are_ignored():
    row = {"stage": "s", "id": "1", "reason": "r", "row": "{}", "later": 1}
    assert DeadLetter.from_row(row) == DeadLetter("s", "1", "r", "{}")


def test_records_are_read_file_by_file_in_name_order(tmp_path):
    folder = RunFolder(str(tmp_path))
    for name in ("b", "a"):
        folder.write_records(f"stage/part-{name}.parquet", [DeadLetter("s", name, "", "")], DeadLetter)
    (tmp_path / "stage/.part-c.parquet.0").write_bytes(b"half")
    (tmp_path / "stage/.part-c.parquet").write_bytes(b"half")
    assert [letter.id for letter in folder.read_records("stage", DeadLetter)] == ["a", "b"]
    assert list(folder.read_records("nothing", DeadLetter)) == []


def files_below(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_a_write_replaces_the_file_and_leaves_no_other(tmp_path):
    folder = RunFolder(str(tmp_path))
    folder.write_bytes("deep/er/a.txt", b"one")
    folder.write_bytes("deep/er/a.txt", b"two")
    assert folder.read_bytes("deep/er/a.txt") == b"two"
    assert files_below(tmp_path) == ["deep/er/a.txt"]


def test_a_missing_file_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match=r"config\.yaml: no such file"):
        RunFolder(str(tmp_path)).read_bytes("config.yaml")


def test_metrics_are_appended(tmp_path):
    folder = RunFolder(str(tmp_path))
    folder.append_metrics([{"loss": 1.0}, {"loss": 0.5}])
    folder.append_metrics([])
    folder.append_metrics([{"loss": 0.25}])
    assert (tmp_path / "metrics.jsonl").read_text() == '{"loss": 1.0}\n{"loss": 0.5}\n{"loss": 0.25}\n'


def test_dead_letters_are_replaced_and_none_leaves_no_file(tmp_path):
    folder = RunFolder(str(tmp_path))
    folder.write_dead_letters("requests", [DeadLetter("requests", "1", "why", "{}")] * 2)
    folder.write_dead_letters("requests", [DeadLetter("requests", "2", "why", "{}")])
    assert [letter.id for letter in folder.read_records("dead_letter", DeadLetter)] == ["2"]
    folder.write_dead_letters("requests", [])
    folder.write_dead_letters("requests", [])
    assert files_below(tmp_path) == []


VERSION = fingerprint(SETTINGS, "in")


def begin(folder: RunFolder, *, overwrite: bool = False, input: str = "in", **change: Any) -> str:
    return folder.begin("requests", settings=SETTINGS | change, input=input, overwrite=overwrite)


def test_a_stage_begins_resumes_and_is_done(tmp_path):
    folder = RunFolder(str(tmp_path))
    assert folder.manifest("requests") is None
    assert begin(folder) == "begin"
    assert files_below(tmp_path) == ["requests/.stage/started.json"]
    assert begin(folder) == "resume"
    finished = folder.finish(manifest_of(metrics={"split/train": 2}))
    assert finished.num_out == 2 and "torch" in finished.versions and finished.files == ()
    assert files_below(tmp_path) == ["requests/.stage/manifest.json"]
    assert begin(folder) == "done"
    assert folder.manifest("requests") == finished


@pytest.mark.parametrize("is_finished", [False, True])
def test_changed_settings_and_input_are_named(tmp_path, is_finished):
    folder = RunFolder(str(tmp_path))
    begin(folder)
    folder.write_records("requests/part-0.parquet", [], DeadLetter, version=VERSION)
    if is_finished:
        folder.finish(manifest_of())
    with pytest.raises(StageError) as caught:
        begin(folder, input="other", seed=43, data={"limit": 7, "format": "auto"}, extra=True)
    message = str(caught.value)
    for change in ("seed: 42 -> 43", "data.limit: 0 -> 7", "extra: None -> True", "its input changed"):
        assert change in message
    assert "data.format" not in message
    assert "--overwrite" in message and "run_dir" in message
    assert begin(folder) == ("done" if is_finished else "resume")


def test_overwrite_deletes_what_was_made_otherwise(tmp_path):
    folder = RunFolder(str(tmp_path))
    begin(folder)
    folder.write_bytes("requests/part-0.parquet", b"old")
    assert begin(folder, overwrite=True) == "resume"  # the same configuration, under way
    assert begin(folder, overwrite=True, seed=43) == "begin"
    assert files_below(tmp_path) == ["requests/.stage/started.json"]
    folder.finish(manifest_of(settings=SETTINGS | {"seed": 43}))
    assert begin(folder, overwrite=True, seed=43) == "done"  # the same configuration, done


def test_tuples_in_settings_do_not_look_like_a_change(tmp_path):
    folder = RunFolder(str(tmp_path))
    assert begin(folder, methods=("greedy",)) == "begin"
    assert begin(folder, methods=("greedy",)) == "resume"


def test_an_unfinished_stage_is_required_with_the_verb_to_run(tmp_path):
    folder = RunFolder(str(tmp_path))
    begin(folder)
    with pytest.raises(DataError, match=r"requests: not finished; run `cotray prepare` first"):
        folder.require("requests", "prepare")
    finished = folder.finish(manifest_of())
    assert folder.require("requests", "prepare") == finished


def test_a_manifest_tells_how_long_the_start_the_work_and_the_end_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(str(tmp_path))
    clock = iter([100.0, 120.5])
    monkeypatch.setattr("cotray.storage.run_folder.time.time", lambda: next(clock))
    begin(folder)
    finished = folder.finish(manifest_of(), work=Work(103.0, 118.25))
    assert finished.times == {"start_s": 3.0, "work_s": 15.25, "end_s": 2.25}
    assert folder.manifest("requests") == finished


def test_of_a_stage_that_had_nothing_left_to_do_no_times_are_told(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    begin(folder)
    assert folder.finish(manifest_of()).times == {}


def test_fingerprints_depend_on_values_not_on_key_order():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1}) != fingerprint({"a": 1, "b": 3})
    assert manifest_of().fingerprint == manifest_of(num_out=9).fingerprint
    assert manifest_of().fingerprint != manifest_of(input="other").fingerprint


def test_local_paths_are_absolute_and_may_be_uris(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert filesystem("runs/a")[1] == filesystem("~/runs/a")[1] == f"{tmp_path}/runs/a"
    assert filesystem(f"file://{tmp_path}/runs/a")[1] == f"{tmp_path}/runs/a"


def test_relative_run_folder_is_the_same_place_for_workers_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = RunFolder("runs/x/")
    assert folder.root == str(tmp_path / "runs" / "x")
    assert folder.uri("student") == str(tmp_path / "runs" / "x" / "student")
