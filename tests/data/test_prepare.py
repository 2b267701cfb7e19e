from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cotray.config import RunConfig, parse_config
from cotray.data import prepare as module
from cotray.data.prepare import prepare
from cotray.errors import ConfigError, DataError, StageError
from cotray.records import TeacherRequest
from cotray.storage.run_folder import DeadLetter, Manifest, RunFolder

SPLITS = ("train", "train", "dev", "test")


def question(n: int, **change: Any) -> dict:
    row = {"id": f"q{n}", "question": "Which?", "choices": ["a", "b", "c"], "answer": "b"}
    return row | {"split": SPLITS[n % 4]} | change


def write(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def config_of(path: Path | str, *, seed: int = 42, method: str = "contrast-wrong", **data: Any) -> RunConfig:
    return parse_config({"seed": seed, "method": method, "data": {"path": str(path)} | data})


def run(path: Path | str, root: Path | str, **kwargs: Any) -> tuple[Manifest, list[TeacherRequest]]:
    folder = RunFolder(str(root))
    manifest = prepare(config_of(path, **kwargs), folder)
    return manifest, list(folder.read_records("requests", TeacherRequest))


def dead_letters(root: Path | str) -> list[DeadLetter]:
    return list(RunFolder(str(root)).read_records("dead_letter", DeadLetter))


def test_the_sample_becomes_requests_counted_by_split_task_and_kind(tmp_path):
    manifest, requests = run("sample", tmp_path)
    assert (manifest.num_in, manifest.num_out, manifest.num_dead) == (256, 256, 0)
    assert manifest.metrics == {
        "path": "sample",
        "kind/counterfactual": 176,
        "kind/factual": 256,
        "layout/cotray": 256,
        "split/dev": 32,
        "split/test": 48,
        "split/train": 176,
        "task/multiple_choice": 128,
        "task/true_false": 64,
        "task/yes_no": 64,
    }
    assert len(requests) == 432
    assert not (tmp_path / "dead_letter").exists()


def test_dead_letters_keep_the_row_the_reason_and_the_place(tmp_path):
    path = write(tmp_path / "in.jsonl", [question(n) for n in range(4)])
    with path.open("ab") as file:
        file.write(b'{"id": "cut"\n')
        file.write(json.dumps(question(0)).encode() + b"\n")
        file.write(json.dumps(question(9, answer="z")).encode() + b"\n")
        file.write(json.dumps(question(10, question="x" * 5000)).encode() + b"\n")
    manifest, _ = run(path, tmp_path / "run")
    letters = dead_letters(tmp_path / "run")
    assert [(letter.id, letter.reason) for letter in letters] == [
        ("in.jsonl:5", "bad JSON"),
        ("q0", "duplicate id"),
        ("q9", "no answer among the choices"),
        ("q10", "question longer than data.max_question_chars, choices included"),
    ]
    assert {letter.stage for letter in letters} == {"requests"}
    assert json.loads(letters[0].row) == '{"id": "cut"'
    assert json.loads(letters[2].row) == question(9, answer="z")
    assert len(letters[3].row) == 2000
    assert (manifest.num_in, manifest.num_out, manifest.num_dead) == (8, 4, 4)
    assert manifest.metrics["reason/duplicate id"] == 1


def test_order_and_files_change_no_request(tmp_path):
    rows = [question(n, split="train") for n in range(60)] + [question(99, split="test")]
    rows += [{"id": f"o{n}", "question": "Where?", "answer": f"city {n}", "split": "train"} for n in range(9)]
    _, one = run(write(tmp_path / "one.jsonl", rows), tmp_path / "run1")
    random.Random(1).shuffle(rows)
    write(tmp_path / "many" / "a.jsonl", rows[:20])
    write(tmp_path / "many" / "b.jsonl", rows[20:])
    _, many = run(tmp_path / "many", tmp_path / "run2")
    by_id = lambda request: (request.id, request.kind)  # noqa: E731
    assert one != many
    assert sorted(one, key=by_id) == sorted(many, key=by_id)


def test_shards_are_full_but_the_last(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ROWS_PER_SHARD", 7)
    monkeypatch.setattr(module, "ROWS_PER_REPORT", 4)
    path = write(tmp_path / "in.jsonl", [question(n) for n in range(10)])  # 10 factual, 6 counterfactual
    told: list[int] = []
    folder = RunFolder(str(tmp_path / "run"))
    prepare(config_of(path), folder, on_rows=told.append)
    names = [Path(name).name for name in folder.parquet_files("requests")]
    assert names == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]
    requests = list(folder.read_records("requests", TeacherRequest))
    assert len(requests) == 16
    assert [request.id for request in requests[:3]] == ["q0", "q0", "q1"]
    assert told == [4, 4, 2]


def test_the_limit_counts_usable_rows(tmp_path):
    rows = [question(n, answer="z" if n < 3 else "a") for n in range(20)]
    manifest, _ = run(write(tmp_path / "in.jsonl", rows), tmp_path / "run", limit=6)
    assert (manifest.num_in, manifest.num_out, manifest.num_dead) == (9, 6, 3)


def test_open_questions_are_contrasted_with_answers_in_use(tmp_path):
    rows = [
        {"id": str(n), "question": "Where?", "answer": f"city {n}", "split": SPLITS[n % 4]} for n in range(8)
    ]
    _, requests = run(write(tmp_path / "in.jsonl", rows), tmp_path / "run", limit=4)
    others = {request.contrast_answer for request in requests if request.kind == "factual"}
    assert others <= {f"city {n}" for n in range(4)}
    assert all(request.contrast_answer != request.target_answer for request in requests)


def test_the_only_open_question_is_a_dead_letter(tmp_path):
    rows = [*(question(n) for n in range(4)), {"id": "o", "question": "Where?", "answer": "Paris"}]
    run(write(tmp_path / "in.jsonl", rows), tmp_path / "run")
    assert [letter.reason for letter in dead_letters(tmp_path / "run")] == [
        "no other open question has a different answer to contrast with"
    ]


def test_hardest_needs_a_teacher_and_takes_its_choice(tmp_path):
    path = write(tmp_path / "in.jsonl", [question(n) for n in range(4)])
    config, folder = config_of(path, method="contrast-hardest"), RunFolder(str(tmp_path / "run"))
    with pytest.raises(ConfigError, match="method=contrast-hardest ranks answers with a teacher"):
        prepare(config, folder)
    prepare(config, folder, rank=lambda pair, candidates: [float(c == "c") for c in candidates])
    requests = list(folder.read_records("requests", TeacherRequest))
    assert {r.contrast_answer for r in requests if r.kind == "factual"} == {"c"}


def state_of(root: Path) -> dict[Path, int]:
    paths = [path for path in root.rglob("*") if ".leases" not in path.parts]
    return {path: path.stat().st_mtime_ns for path in paths if path.is_file()}


def test_a_second_call_is_done_and_touches_nothing(tmp_path):
    path = write(tmp_path / "in.jsonl", [question(n) for n in range(8)])
    first, _ = run(path, tmp_path / "run")
    before = state_of(tmp_path / "run")
    moved = path.rename(tmp_path / "in.jsonl.moved").rename(tmp_path / "sub.jsonl")
    again = write(tmp_path / "elsewhere" / "in.jsonl", [question(n) for n in range(8)])
    assert run(again, tmp_path / "run")[0] == first
    assert state_of(tmp_path / "run") == before
    assert moved.exists()


def test_a_changed_configuration_is_named_and_refused(tmp_path):
    path = write(tmp_path / "in.jsonl", [question(n) for n in range(8)])
    run(path, tmp_path / "run")
    before = state_of(tmp_path / "run")
    with pytest.raises(StageError, match="seed: 42 -> 43"):
        run(path, tmp_path / "run", seed=43)
    with pytest.raises(StageError, match="perturbation: wrong -> empty"):
        run(path, tmp_path / "run", method="contrast-empty")
    with pytest.raises(StageError, match=r"data\.limit: 0 -> 7"):
        run(path, tmp_path / "run", limit=7)
    write(path, [question(n) for n in range(9)])
    with pytest.raises(StageError, match="its input changed"):
        run(path, tmp_path / "run")
    assert state_of(tmp_path / "run") == before


def test_methods_that_share_their_requests_share_the_folder(tmp_path):
    first, _ = run("sample", tmp_path, method="greedy")
    assert run("sample", tmp_path, method="contrast-wrong+counterfactual")[0] == first


def test_overwrite_makes_it_again(tmp_path):
    path = write(tmp_path / "in.jsonl", [question(n, split="train") for n in range(40)] + [question(43)])
    _, before = run(path, tmp_path / "run")
    prepare(config_of(path, seed=43), RunFolder(str(tmp_path / "run")), overwrite=True)
    after = list(RunFolder(str(tmp_path / "run")).read_records("requests", TeacherRequest))
    assert [r.id for r in after] == [r.id for r in before] and after != before


def test_an_interrupted_call_is_made_again_without_leftovers(tmp_path):
    path = write(tmp_path / "in.jsonl", [question(n) for n in range(8)])

    def stop(num_rows: int) -> None:
        (tmp_path / "run/requests/part-00007.parquet").write_bytes(b"left over")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(config_of(path), RunFolder(str(tmp_path / "run")), on_rows=stop)
    manifest, requests = run(path, tmp_path / "run")
    assert manifest.num_out == 8
    assert len({(r.id, r.kind) for r in requests}) == len(requests) == 12


def failure(path: Path, root: Path, **kwargs: Any) -> str:
    with pytest.raises(DataError) as caught:
        run(path, root, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_empty_input_says_so(tmp_path):
    (tmp_path / "in.jsonl").write_bytes(b"\n \n")
    assert "no rows" in failure(tmp_path / "in.jsonl", tmp_path / "run")
    (tmp_path / "in.csv").write_bytes(b"id,question,answer\n")
    assert "no rows" in failure(tmp_path / "in.csv", tmp_path / "run")


def test_unusable_input_names_the_three_commonest_reasons(tmp_path):
    rows = [question(n, answer="z") for n in range(4)] + [question(n, question="") for n in range(3)]
    rows += [question(n, task="essay") for n in range(2)] + [question(9, split="holdout")]
    message = failure(write(tmp_path / "in.jsonl", rows), tmp_path / "run")
    assert "none of the 10 rows is usable" in message
    assert "no answer among the choices (4); empty question (3); unknown task (2); " in message
    assert "say in data.columns what the columns mean; the first row has id, question" in message
    assert len(dead_letters(tmp_path / "run")) == 10


def test_what_is_not_said_of_the_columns_is_no_setting_however_the_configuration_was_made(tmp_path):
    config = config_of("sample")
    spelled_out = RunConfig.model_validate(config.model_dump())
    settings = module.settings_of(config)
    assert settings == module.settings_of(spelled_out) and "labels" not in settings["data"]
    named = module.settings_of(config_of("sample", labels=["no", "yes"]))
    assert named["data"]["labels"] == ["no", "yes"]


def test_a_misspelled_column_is_named_with_the_one_that_was_meant(tmp_path):
    path = write(tmp_path / "in.jsonl", [{"q": f"Is {n} even?", "gold_label": "yes"} for n in range(3)])
    message = failure(path, tmp_path / "run", columns={"question": "q", "answer": "gold_lable"})
    meant = "missing column 'gold_lable' (3); did you mean 'gold_label'? The first row has q, gold_label"
    assert meant in message


def test_rows_without_an_id_get_one_from_their_content_and_the_same_question_counts_once(tmp_path):
    rows = [{"question": f"Is {n % 5} even?", "answer": "yes", "split": "train"} for n in range(6)]
    rows += [{"question": "Which?", "choices": ["a", "b", "B "], "answer": "a", "split": "test"}]
    manifest, requests = run(write(tmp_path / "in.jsonl", rows), tmp_path / "run")
    assert (manifest.metrics["made_ids"], manifest.metrics["merged"]) == (6, 1)
    assert manifest.metrics["reason/duplicate question"] == 1
    again, same = run(write(tmp_path / "other.jsonl", rows[::-1]), tmp_path / "again")
    assert {row.id for row in same} == {row.id for row in requests} and again.num_out == 6


@pytest.mark.parametrize(("split", "way_out"), [("train", "lower data.dev"), ("test", "raise data.test")])
def test_an_empty_split_is_named_with_a_way_out(tmp_path, split, way_out):
    rows = [question(n) for n in range(8) if SPLITS[n % 4] != split]
    message = failure(write(tmp_path / "in.jsonl", rows), tmp_path / "run")
    assert f"in split '{split}'; {way_out}" in message


def test_dev_may_be_empty(tmp_path):
    rows = [question(n) for n in range(8) if SPLITS[n % 4] != "dev"]
    assert run(write(tmp_path / "in.jsonl", rows), tmp_path / "run")[0].num_out == 6


def test_after_a_data_error_another_configuration_may_follow(tmp_path):
    path = write(tmp_path / "in.jsonl", [question(n, split=None) for n in range(40)])
    failure(path, tmp_path / "run", test_fraction=0)
    assert run(path, tmp_path / "run", test_fraction=0.3)[0].num_out == 40


def test_a_csv_of_each_kind_of_question(tmp_path):
    path = tmp_path / "in.csv"
    path.write_text(
        "id,question,choices,answer,split,facts\n"
        "1,Can a whale fly?,,False,train,Whales swim.|Whales are heavy.\n"
        '2,Which?,"[""x"", ""y""]",1,test,\n'
        "3,Where?,,Paris,train,\n"
        "4,Where?,,Rome,train,\n"
    )
    _, requests = run(path, tmp_path / "run")
    factual = {r.id: r for r in requests if r.kind == "factual"}
    assert [(r.task, r.answer) for r in factual.values()] == [
        ("true_false", "false"),
        ("multiple_choice", "y"),
        ("open", "Paris"),
        ("open", "Rome"),
    ]
    assert factual["1"].facts == ("Whales swim.", "Whales are heavy.")
    assert (factual["3"].contrast_answer, factual["4"].contrast_answer) == ("Rome", "Paris")


def test_preparing_imports_neither_torch_nor_ray():
    code = "import sys, cotray.data.prepare; print(sorted({'torch', 'ray', 'datasets'} & sys.modules.keys()))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
