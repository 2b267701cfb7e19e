"""What an export writes is what other programs load: the same texts that cotray's students learn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import load_dataset
from finished_runs import METHODS, run_folder

from cotray.commands.export import main
from cotray.config import RunConfig, StudentConfig, dump_config
from cotray.storage.run_folder import RunFolder

CHOICES = "(A) clouds\n(B) rivers\n(C) snow"


def exported(config: RunConfig, tmp_path: Path, to: str, *options: str) -> Path:
    (tmp_path / "c.yaml").write_text(dump_config(config))
    out = tmp_path / "out"
    assert main(["-c", str(tmp_path / "c.yaml"), "--to", to, "--out", str(out), *options]) == 0
    return out


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def test_a_chat_has_the_question_with_its_choices_and_a_factual_explanation_per_split(tmp_path: Path) -> None:
    out = exported(run_folder(tmp_path), tmp_path, "chat")
    said = assistant("Herons wade. So the answer is no")
    assert rows(out / "train.jsonl") == [{"id": "q1", "messages": [user("Can a heron swim?"), said]}]
    said = assistant("Drops fall from them. So the answer is clouds")
    question = user(f"Where does rain come from?\n{CHOICES}")
    assert rows(out / "validation.jsonl") == [{"id": "q2", "messages": [question, said]}]
    assert [row["id"] for row in rows(out / "test.jsonl")] == ["q3"]


def test_alpaca_keeps_the_choices_apart_from_the_question(tmp_path: Path) -> None:
    out = exported(run_folder(tmp_path), tmp_path, "alpaca")
    assert rows(out / "validation.jsonl") == [
        {
            "id": "q2",
            "instruction": "Where does rain come from?",
            "input": CHOICES,
            "output": "Drops fall from them. So the answer is clouds",
        }
    ]
    assert rows(out / "train.jsonl")[0]["input"] == ""


@pytest.mark.parametrize(("tags", "tag"), [("on", "[{kind}] "), ("off", "")])
def test_a_completion_is_what_is_learned_of_a_students_sequence(tags: str, tag: str, tmp_path: Path) -> None:
    config = run_folder(tmp_path, student={"model": "random:qwen2", "training": {"tags": tags}})
    out = exported(config, tmp_path, "completion")
    factual, counterfactual = rows(out / "train.jsonl")
    question = f"{tag.format(kind='factual')}Can a heron swim?\n"
    expected = {"prompt": question, "completion": "Herons wade. So the answer is no"}
    assert factual == {"id": "q1", "kind": "factual", **expected}
    question = f"{tag.format(kind='counterfactual')}Can a heron swim?\n"
    expected = {"prompt": f"{question}Herons float. So the answer is", "completion": " yes"}
    assert counterfactual == {"id": "q1", "kind": "counterfactual", **expected}


def test_tags_and_method_are_those_that_the_folder_was_made_with(tmp_path: Path) -> None:
    made = run_folder(tmp_path, student={"training": {"tags": "off"}}).for_method(METHODS[1])
    folder = RunFolder(made.run_dir)
    folder.write_bytes("config.yaml", dump_config(made).encode())
    asked = made.model_copy(update={"method": "greedy", "student": StudentConfig()})
    prompts = [row["prompt"] for row in rows(exported(asked, tmp_path, "completion") / "train.jsonl")]
    assert prompts == ["Can a heron swim?\n", "Can a heron swim?\nHerons float. So the answer is"]


def test_completions_of_a_method_without_counterfactuals_have_none(tmp_path: Path) -> None:
    config = run_folder(tmp_path, student={"training": {"counterfactual_weight": 0}})
    assert {row["kind"] for row in rows(exported(config, tmp_path, "completion") / "train.jsonl")} == {
        "factual"
    }


def test_preferences_are_contrastive_over_greedy_and_the_teacher_over_the_students_mistakes(
    tmp_path: Path,
) -> None:
    out = exported(run_folder(tmp_path), tmp_path, "preference")
    first = rows(out / "decoding/train.jsonl")
    assert first == [
        {
            "id": "q1",
            "prompt": [user("Can a heron swim?")],
            "chosen": [assistant("Herons wade. So the answer is no")],
            "rejected": [assistant("It is a bird. So the answer is no")],
            "question": "Can a heron swim?",
            "better": "Herons wade. So the answer is no",
            "worse": "It is a bird. So the answer is no",
        }
    ]
    assert not (out / "decoding/validation.jsonl").exists()  # both teachers wrote the same about q2
    assert [row["worse"] for row in rows(out / "decoding/test.jsonl")] == ["Ice is ice. So the answer is yes"]
    assert rows(out / "student/train.jsonl")[0]["rejected"] == [
        assistant("It has feet. So the answer is Yes")
    ]
    row = rows(out / "student/validation.jsonl")[0]
    assert (row["better"], row["worse"]) == (
        "Drops fall from them. So the answer is clouds",
        "Rivers flow. So the answer is rivers",
    )
    assert not (out / "student/test.jsonl").exists()  # the student is right about q3


def test_of_one_method_alone_there_is_nothing_to_prefer_before_its_student_was_asked(
    tmp_path: Path, capsys
) -> None:
    config = run_folder(tmp_path)
    (tmp_path / "c.yaml").write_text(dump_config(config))
    arguments = ["-c", str(tmp_path / "c.yaml"), "--to", "preference", "--out", str(tmp_path / "out")]
    assert main([*arguments, "method=greedy"]) == 2
    assert "preferences need a greedy run beside a contrastive one" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", ["chat", "completion", "alpaca", "preference", "lm-eval"])
def test_datasets_loads_every_split_that_the_card_names(to: str, tmp_path: Path) -> None:
    out = exported(run_folder(tmp_path), tmp_path, to)
    card = (out / "README.md").read_text("utf-8")
    front = yaml.safe_load(card.split("---\n")[1])
    for config in front["configs"]:
        loaded = load_dataset(str(out), config["config_name"], cache_dir=str(tmp_path / "cache"))
        files = {entry["split"]: entry["path"] for entry in config["data_files"]}
        assert loaded.keys() == files.keys()
        for split, path in files.items():
            assert loaded[split].to_list() == rows(out / path)
            assert f"| `{path}` | {len(rows(out / path))} |" in card


def test_llama_factorys_list_names_every_file_and_columns_that_it_has(tmp_path: Path) -> None:
    for to in ("chat", "completion", "alpaca", "preference"):
        (tmp_path / to).mkdir()
        out = exported(run_folder(tmp_path / to), tmp_path / to, to)
        entries = json.loads((out / "dataset_info.json").read_text())
        assert {entry["file_name"] for entry in entries.values()} == {
            str(path.relative_to(out)) for path in out.rglob("*.jsonl")
        }
        for entry in entries.values():
            row = rows(out / entry["file_name"])[0]
            assert set(entry["columns"].values()) <= row.keys()
            if entry.get("ranking"):  # as strings: it reads no list of messages there
                assert {type(row[column]) for column in entry["columns"].values()} == {str}


def test_the_same_command_replaces_its_files_and_refuses_a_folder_with_others(tmp_path: Path, capsys) -> None:
    out = exported(run_folder(tmp_path), tmp_path, "chat")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    exported(run_folder(tmp_path / "again"), tmp_path, "chat")
    assert {path.name for path in out.iterdir()} == before.keys()
    arguments = ["-c", str(tmp_path / "c.yaml"), "--to", "lm-eval", "--out", str(out)]
    assert main(arguments) == 2
    assert "is not of this export; choose a new folder" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in out.iterdir()}.keys() == before.keys()


def test_a_method_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path, capsys) -> None:
    config = run_folder(tmp_path)
    (tmp_path / "c.yaml").write_text(dump_config(config))
    arguments = ["-c", str(tmp_path / "c.yaml"), "--to", "chat", "--out", str(tmp_path / "out")]
    assert main([*arguments, "method=contrast-empty"]) == 2
    error = capsys.readouterr().err
    assert f"choose one with method=NAME: {', '.join(METHODS)}" in error and len(error.splitlines()) == 1


def test_harness_tasks_ask_the_test_questions_and_read_the_last_answer(tmp_path: Path) -> None:
    import re

    out = exported(run_folder(tmp_path), tmp_path, "lm-eval")
    assert rows(out / "cotray_yes_no.jsonl") == [{"id": "q3", "question": "Is “ice” cold?", "answer": "yes"}]
    task = yaml.safe_load((out / "cotray_yes_no.yaml").read_text("utf-8"))
    assert task["dataset_kwargs"]["data_files"] == {"test": str(out / "cotray_yes_no.jsonl")}
    assert task["generation_kwargs"] == {"until": [], "max_gen_toks": 24, "cotray": {"task": "yes_no"}}
    pattern = task["filter_list"][0]["filter"][0]["regex_pattern"]
    text = "He said: So the answer is no.\nIt is not. So the answer is yes.\n"
    assert re.findall(pattern, text) == ["yes"]
