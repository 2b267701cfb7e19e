"""A finished stage is believed only as far as its files bear it out; what is missing is made again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cotray.config import RunConfig, load_config
from cotray.data.prepare import prepare
from cotray.data.readers import read_rows
from cotray.errors import DataError, StageError
from cotray.records import TeacherRequest
from cotray.stages.generate import current_rationales, settings_of
from cotray.stages.overwrite_preview import overwrite_preview
from cotray.stages.simulator import simulator_settings
from cotray.stages.train import settings_of as train_settings
from cotray.storage.checkpoints import newest, settled_precision
from cotray.storage.manifest import Manifest
from cotray.storage.run_folder import DeadLetter, RunFolder
from cotray.storage.verify import verify

CONFIG = Path(__file__).parent.parent / "jobs" / "configs" / "smoke.yaml"


def config_of(root: Path, *options: str) -> RunConfig:
    return load_config(CONFIG, [f"run_dir={root / 'run'}", "data.limit=24", "teacher.engine=fake", *options])


def prepared(root: Path, *options: str) -> tuple[RunConfig, RunFolder]:
    config = config_of(root, *options)
    folder = RunFolder(config.run_dir)
    prepare(config, folder)
    return config, folder


def questions(path: Path, count: int, word: str) -> Path:
    rows = [
        {"qid": f"q{n}", "question": f"Can a {word} {n} fly?", "answer": n % 2 == 0} for n in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_missing_a_cut_and_a_foreign_file_are_named_with_the_command_that_repairs(tmp_path: Path) -> None:
    config, folder = prepared(tmp_path)
    part = tmp_path / "run" / "requests" / "part-00000.parquet"
    whole = part.read_bytes()
    for damage, said in ((whole[:-1], "bytes instead of"), (None, "part-00000.parquet is missing")):
        if damage is None:
            part.unlink()
        else:
            part.write_bytes(damage)
        with pytest.raises(DataError, match=rf"{said}.*Run `cotray prepare`"):
            folder.require("requests", "prepare")
        prepare(config, folder)
        assert part.read_bytes() == whole
    folder.write_records("requests/part-00001.parquet", [], TeacherRequest, version="other")
    with pytest.raises(DataError, match=r"part-00001\.parquet is no file of this stage"):
        folder.require("requests", "prepare")
    prepare(config, folder)
    assert folder.require("requests", "prepare").num_out == 24


def test_verify_finds_a_change_that_sizes_do_not_show(tmp_path: Path) -> None:
    config, _ = prepared(tmp_path)
    assert "1 files, " in verify(config) and "all as they were written" in verify(config)
    part = tmp_path / "run" / "requests" / "part-00000.parquet"
    data = bytearray(part.read_bytes())
    data[10] ^= 1
    part.write_bytes(data)
    with pytest.raises(StageError, match=r"part-00000\.parquet has other content than was written"):
        verify(config)


def test_rows_of_another_version_are_refused_by_readers(tmp_path: Path) -> None:
    _, folder = prepared(tmp_path)
    manifest = folder.require("requests", "prepare")
    rows = list(folder.read_records("requests", TeacherRequest))
    folder.write_records("requests/part-00000.parquet", rows, TeacherRequest, version="other")
    folder.finish(manifest)
    with pytest.raises(StageError, match="its rows are of another configuration or input"):
        list(folder.read_records("requests", TeacherRequest))


@pytest.mark.parametrize("name", ["manifest.json", "started.json"])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("{half", "is damaged"),
        ("[1]", "is damaged"),
        ('{"settings": 3, "input": ""}', "is damaged"),
        ('{"format": 99}', "was written by a newer cotray"),
    ],
)
def test_a_damaged_or_newer_state_is_one_message_and_overwrite_makes_damaged_ones_again(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    config, folder = prepared(tmp_path)
    for state in ("manifest.json", "started.json"):
        (tmp_path / "run/requests/.stage" / state).unlink(missing_ok=True)
    (tmp_path / "run/requests/.stage" / name).write_text(text)
    with pytest.raises(StageError, match=said):
        prepare(config, folder)
    if "newer" in said:
        with pytest.raises(StageError, match="update cotray"):
            prepare(config, folder, overwrite=True)
    else:
        assert prepare(config, folder, overwrite=True).num_out == 24


def test_fields_of_a_later_version_are_ignored(tmp_path: Path) -> None:
    config, folder = prepared(tmp_path)
    path = tmp_path / "run/requests/.stage/manifest.json"
    tree = json.loads(path.read_text())
    tree["later"] = True
    tree["files"][0]["later"] = 1
    path.write_text(json.dumps(tree))
    assert prepare(config, folder).num_out == 24


def test_a_folder_of_an_earlier_version_is_still_read(tmp_path: Path) -> None:
    """Without a list of files, versions of rows, and settings that were not recorded then."""
    config, folder = prepared(tmp_path)
    rows = list(folder.read_records("requests", TeacherRequest))
    now = tmp_path / "run/requests/.stage/manifest.json"
    path = tmp_path / "run/requests/manifest.json"
    now.rename(path)
    tree = json.loads(path.read_text())
    for key in ("files", "versions", "format"):
        del tree[key]
    del tree["settings"]["seed"]
    path.write_text(json.dumps(tree))
    folder.write_records("requests/part-00000.parquet", rows, TeacherRequest)
    assert prepare(config, folder).files is None
    assert list(folder.read_records("requests", TeacherRequest)) == rows


def test_input_that_changes_while_it_is_read_and_is_put_back_makes_no_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = questions(tmp_path / "in.jsonl", 40, "wren")
    original = path.read_text()
    config = config_of(tmp_path, f"data.path={path}", "data.limit=0")

    def read_others(*arguments: Any) -> Any:
        questions(path, 60, "stone")
        yield from read_rows(*arguments)
        path.write_text(original)

    monkeypatch.setattr("cotray.data.prepare.read_rows", read_others)
    with pytest.raises(DataError, match="changed while it was read"):
        prepare(config, RunFolder(config.run_dir))
    assert not (tmp_path / "run" / "requests").exists()
    monkeypatch.undo()
    assert prepare(config, RunFolder(config.run_dir)).num_out == 40


def test_a_stage_that_made_nothing_never_blocks_another_configuration(tmp_path: Path) -> None:
    _, folder = prepared(tmp_path)
    started = {"settings": {"model": "/nope"}, "input": "x"}
    assert folder.begin("student", **started, overwrite=False) == "begin"
    later = {"settings": {"model": "random:llama"}, "input": "x"}
    assert folder.begin("student", **later, overwrite=False) == "begin"
    folder.write_bytes("student/checkpoints/a/step-00000001/complete.json", b"{}")
    with pytest.raises(StageError, match="model: random:llama -> /nope"):
        folder.begin("student", **started, overwrite=False)


def test_a_single_verb_refuses_a_producer_of_another_configuration_along_the_chain(tmp_path: Path) -> None:
    config, folder = prepared(tmp_path)
    source, settings = folder.require("requests", "prepare").fingerprint, settings_of(config)
    folder.begin("rationales", settings=settings, input=source, overwrite=False)
    folder.finish(Manifest("rationales", settings, source, 24, 24, 0))
    assert current_rationales(config, folder).num_out == 24
    with pytest.raises(
        StageError, match=r"teacher\.decoding\.weight: 0.5 -> 0.9.*cotray generate --overwrite"
    ):
        current_rationales(config_of(tmp_path, "teacher.decoding.weight=0.9"), folder)
    with pytest.raises(StageError, match=r"seed: 42 -> 7.*cotray prepare --overwrite"):
        current_rationales(config_of(tmp_path, "seed=7"), folder)
    prepare(config_of(tmp_path, "seed=7"), folder, overwrite=True)
    with pytest.raises(StageError, match="its input changed"):
        current_rationales(config_of(tmp_path, "seed=7"), folder)


def test_overwrite_keeps_what_did_not_change_and_tells_what_it_deletes(tmp_path: Path) -> None:
    config, folder = prepared(tmp_path)
    before = os.stat(tmp_path / "run" / "requests" / "part-00000.parquet").st_mtime_ns
    prepare(config, folder, overwrite=True)
    assert os.stat(tmp_path / "run" / "requests" / "part-00000.parquet").st_mtime_ns == before
    source, settings = folder.require("requests", "prepare").fingerprint, settings_of(config)
    folder.begin("rationales", settings=settings, input=source, overwrite=False)
    folder.finish(Manifest("rationales", settings, source, 24, 24, 0, {"tokens": 1234}))
    told = overwrite_preview(config_of(tmp_path, "teacher.decoding.weight=0.9"), "run").splitlines()[1:]
    assert told == [
        "  requests     kept     24 rows",
        "  rationales   deleted  (teacher.decoding.weight: 0.5 -> 0.9): 24 rows, 1,234 tokens",
    ]
    told = overwrite_preview(config_of(tmp_path, "seed=7"), "run").splitlines()[1:]
    assert told[0].startswith("  requests     deleted  (seed: 42 -> 7)")
    assert told[1].startswith("  rationales   deleted  (requests/ changes)")


def test_overwrite_tells_of_a_single_verbs_stages_and_of_what_they_were_made_from(tmp_path: Path) -> None:
    config, folder = prepared(tmp_path)
    settings = settings_of(config)
    folder.begin("rationales", settings=settings, input="others", overwrite=False)
    folder.finish(Manifest("rationales", settings, "others", 24, 24, 0))
    told = overwrite_preview(config, "generate").splitlines()[1:]
    assert told == ["  rationales   deleted  (its input changed): 24 rows"]
    path = questions(tmp_path / "in.jsonl", 40, "wren")
    told = overwrite_preview(config_of(tmp_path, f"data.path={path}"), "prepare").splitlines()[1:]
    assert told == ["  requests     deleted  (its input changed): 24 rows"]


def test_weights_in_a_folder_are_known_by_their_content(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"one")
    config = config_of(tmp_path, f"teacher.model={model}")
    first = settings_of(config)
    assert settings_of(config) == first
    (model / "model.safetensors").write_bytes(b"two")
    os.utime(model / "model.safetensors", ns=(1, 1))
    assert settings_of(config)["teacher"]["weights"] != first["teacher"]["weights"]


def test_dtype_auto_is_recorded_as_what_the_replicas_are_given(tmp_path: Path) -> None:
    assert settings_of(config_of(tmp_path))["teacher"]["dtype"] == "float32"
    assert settings_of(config_of(tmp_path, "teacher.num_gpus=1"))["teacher"]["dtype"] == "bfloat16"


def test_a_line_of_metrics_that_is_there_is_not_written_again(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    rows = [{"train/step": 1, "train/loss": 0.5}, {"train/step": 2, "train/loss": 0.25}]
    folder.append_metrics(rows[:1])
    folder.append_metrics(rows)
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == rows


def test_dead_letters_of_a_deleted_stage_go_with_it(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    folder.begin("requests", settings={}, input="a", overwrite=False)
    folder.write_records("requests/part-0.parquet", [], TeacherRequest, version="v")
    folder.write_dead_letters("requests", [DeadLetter("requests", "1", "why", "{}")])
    assert folder.begin("requests", settings={}, input="b", overwrite=True) == "begin"
    assert list(folder.read_records("dead_letter", DeadLetter)) == []


def test_a_training_that_goes_on_on_other_nodes_computes_as_it_began(tmp_path: Path) -> None:
    folder = str(tmp_path / "checkpoints" / "of-one-configuration")
    assert settled_precision(folder, "bfloat16") == "bfloat16"
    assert settled_precision(folder, "float32") == "bfloat16"
    assert settled_precision(f"{folder}-2", "float32") == "float32"
    assert newest(folder) == (None, [])


def test_prompts_of_student_and_simulator_are_part_of_what_their_weights_depend_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path)
    before = train_settings(config), simulator_settings(config)
    monkeypatch.setattr("cotray.prompts.student.ANSWER_PHRASE", " Therefore")
    monkeypatch.setattr("cotray.prompts.simulator.TARGET_PREFIX", "It says:")
    after = train_settings(config), simulator_settings(config)
    for old, new in zip(before, after, strict=True):
        assert {key for key in old if old[key] != new[key]} == {"prompts"}
