"""Passages with questions and answers: their layouts, what becomes of bad rows, and what is learned."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cotray.commands.train_pairs import main
from cotray.config.pairs import PairsConfig, load_pairs
from cotray.data.passages import each_pair
from cotray.errors import ConfigError, DataError
from cotray.models.loading import load_tokenizer
from cotray.models.sequences import encode
from cotray.prompts.qa_pairs import QuestionAnswer, pair_example, pair_prompt, pair_target
from cotray.quality.qa_model import QAModel
from cotray.records import PassagePair
from cotray.stages.train_pairs import is_in_dev, pair_examples, write_pairs
from cotray.storage.lease import NO_FENCE
from cotray.storage.run_folder import DeadLetter, RunFolder
from cotray.training.examples import Examples
from cotray.training.node_examples import StageExamples

ROOT = Path(__file__).parents[2]
RAIN = "Rain falls  from\nclouds."
EXPECTED = ("Rain falls from clouds.", "What falls?", "Rain")


def squad(passages: dict[str, list[tuple[str, list[str]]]]) -> dict[str, Any]:
    """SQuAD's nested file with one article."""
    paragraphs = [
        {
            "context": context,
            "qas": [
                {"id": f"q{n}", "question": question, "answers": [{"text": text} for text in answers]}
                for n, (question, answers) in enumerate(questions)
            ],
        }
        for context, questions in passages.items()
    ]
    return {"version": "1.1", "data": [{"title": "Weather", "paragraphs": paragraphs}]}


def write(folder: Path, name: str, *rows: dict[str, Any]) -> str:
    path = folder / name
    match path.suffix:
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(list(rows)), path)
        case ".csv":
            with path.open("w", newline="") as file:
                lines = csv.DictWriter(file, list(rows[0]))
                lines.writeheader()
                lines.writerows(rows)
        case _:
            path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def made(out: Path, path: str, config: PairsConfig) -> tuple[Examples, list[DeadLetter]]:
    """What is learned of the rows at `path`, and the dead letters."""
    folder = RunFolder(str(out))
    pairs = write_pairs(config, path, folder, "x")
    manifest = pair_examples(config, folder, pairs, NO_FENCE)
    examples = StageExamples(folder.root, "examples", manifest.fingerprint).opened()
    return examples, list(folder.read_records("dead_letter", DeadLetter))


def read(path: str) -> list[tuple[str, str, str]]:
    pairs = list(each_pair(path))
    assert all(isinstance(pair, PassagePair) for pair in pairs), pairs
    return [(pair.passage, pair.question, pair.answer) for pair in pairs if isinstance(pair, PassagePair)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
@pytest.mark.parametrize("column", ["passage", "context"])
def test_plain_rows_are_read_from_every_kind_of_file(tmp_path: Path, name: str, column: str) -> None:
    path = write(tmp_path, name, {column: RAIN, "question": " What falls? ", "answer": "Rain"})
    assert read(path) == [EXPECTED]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_the_hugging_face_layout_of_squad_has_its_answers_in_a_list(tmp_path: Path, name: str) -> None:
    answers = {"text": ["Rain", "from clouds"], "answer_start": [0, 11]}
    path = write(tmp_path, name, {"id": "x", "context": RAIN, "question": "What falls?", "answers": answers})
    assert read(path) == [EXPECTED, (*EXPECTED[:2], "from clouds")]


@pytest.mark.parametrize("answers", ['{"text": ["Rain"]}', '["Rain"]', '[{"text": "Rain"}]', "Rain"])
def test_csv_has_answers_as_json_or_plain(tmp_path: Path, answers: str) -> None:
    path = write(tmp_path, "a.csv", {"context": RAIN, "question": "What falls?", "answers": answers})
    assert read(path) == [EXPECTED]


@pytest.mark.parametrize("indent", [None, 2])
def test_the_nested_layout_of_squad_is_one_row_per_question(tmp_path: Path, indent: int | None) -> None:
    nested = squad({RAIN: [("What falls?", ["Rain"]), ("Whence?", ["clouds"])], "Ice.": [("What?", ["Ice"])]})
    (tmp_path / "train.json").write_text(json.dumps(nested, indent=indent))
    assert read(str(tmp_path / "train.json")) == [
        EXPECTED,
        ("Rain falls from clouds.", "Whence?", "clouds"),
        ("Ice.", "What?", "Ice"),
    ]


def test_each_distinct_answer_of_a_question_is_one_pair(tmp_path: Path) -> None:
    nested = squad({RAIN: [("What falls?", ["Rain", "rain", "Rain falls", "Rain "])]})
    pairs = list(each_pair(write(tmp_path, "a.json", nested)))
    assert [(pair.id, pair.answer) for pair in pairs if isinstance(pair, PassagePair)] == [
        ("a.json:1/0/0", "Rain"),
        ("a.json:1/0/1", "Rain falls"),
    ]


def test_every_bad_row_is_a_dead_letter_with_its_reason(tmp_path: Path) -> None:
    good = {"passage": RAIN, "question": "What falls?", "answer": "rain"}
    path = write(
        tmp_path, "a.jsonl", good, good | {"passage": None}, good | {"question": " "}, good | {"answer": ""},
        good | {"answer": "snow"}, good | {"answer": "loud"}, good | {"question": "What Answer: falls?"},
        good | {"answer": 1.5}, good | {"answers": {"text": []}}, {"data": ["x"]},
        good | {"passage": "a " * 600}, good | {"passage": "Rain. " * 500},
    )  # fmt: skip
    with open(path, "a") as file:
        file.write("\n{")
    learned, dead = made(tmp_path / "out", path, PairsConfig(model="random:llama", dev_fraction=0))
    assert [row.id for row in learned.rows("factual")] == ["a.jsonl:1/0"]
    assert {letter.id: letter.reason for letter in dead} == {
        "a.jsonl:2": "missing column 'passage'",
        "a.jsonl:3": "empty question",
        "a.jsonl:4": "empty answer",
        "a.jsonl:5/0": "answer is not words of the passage",
        "a.jsonl:6/0": "answer is not words of the passage",
        "a.jsonl:7/0": "the mark between question and answer occurs in one of them",
        "a.jsonl:8": "column 'answer' is not text",
        "a.jsonl:9": "no answer",
        "a.jsonl:10/0": "'data' is not a list of objects",
        "a.jsonl:11/0": "answer is not words of the passage",
        "a.jsonl:12/0": "longer than training.max_length (factual)",
        "a.jsonl:13": "bad JSON",
    }
    (letter,) = [letter for letter in dead if letter.id == "a.jsonl:3"]
    assert json.loads(letter.row) == good | {"question": " "}


@pytest.mark.parametrize("name", ["random:llama", "random:t5"])
def test_what_is_learned_is_token_by_token_what_is_scored(name: str) -> None:
    qa = QAModel(name, num_demonstrations=0)
    pair = QuestionAnswer("What falls?", "Rain")
    encoded = encode(
        pair_example("a", RAIN, pair),
        qa.tokenizer,
        is_encoder_decoder=qa.model.config.is_encoder_decoder,
    )
    assert list(encoded.source) == qa.tokenizer(pair_prompt(RAIN, num_demonstrations=0)).input_ids
    assert list(encoded.target) == qa.pair_ids(pair)
    assert all(encoded.is_supervised)
    assert qa.tokenizer.decode(list(encoded.target)) == f"{pair_target(pair)}<eos>"


def test_a_tokenizer_with_merges_joins_nothing_across_the_end_of_the_prompt() -> None:
    """A pair is scored as tokens of its own, and learned in one text with its prompt."""
    tokenizer = load_tokenizer("embedded:smollm2-135m-instruct")
    pair = QuestionAnswer("2 or 3 rains?", 'Rain, "clouds"')
    encoded = encode(pair_example("a", RAIN, pair), tokenizer, is_encoder_decoder=False)
    alone = tokenizer(pair_target(pair), add_special_tokens=False).input_ids
    assert list(encoded.source) == tokenizer(pair_prompt(RAIN, num_demonstrations=0)).input_ids
    assert list(encoded.target) == [*alone, tokenizer.eos_token_id]


def test_a_passage_is_on_one_side_with_all_its_pairs(tmp_path: Path) -> None:
    rows = [
        {"passage": f"Passage {n} is about rain.", "question": f"{word}?", "answer": "rain"}
        for n in range(200)
        for word in ("What", "Which")
    ]
    path = write(tmp_path, "a.jsonl", *rows)
    config = PairsConfig(model="random:llama", dev_fraction=0.25)
    examples, _ = made(tmp_path / "out", path, config)
    sides = [examples.rows("factual", split) for split in ("train", "dev")]
    train, dev = ({row.source for row in side} for side in sides)
    assert not train & dev and len(train | dev) == 200
    assert len(sides[0]) == 2 * len(train) and len(sides[1]) == 2 * len(dev)
    assert 30 <= len(dev) <= 70  # 50 are expected, with a standard deviation of 6
    other = PairsConfig(model="random:llama", dev_fraction=0.25, seed=43)
    assert {row["passage"] for row in rows if is_in_dev(row["passage"], config)} != {
        row["passage"] for row in rows if is_in_dev(row["passage"], other)
    }


def test_a_limit_takes_the_first_usable_pairs(tmp_path: Path) -> None:
    rows = [
        {"passage": RAIN, "question": f"{n}?", "answer": answer}
        for n, answer in enumerate(["x", "rain", "rain", "rain"])
    ]
    path = write(tmp_path, "a.jsonl", *rows)
    examples, _ = made(tmp_path / "out", path, PairsConfig(model="random:llama", dev_fraction=0, limit=2))
    assert [row.id for row in examples.rows("factual")] == ["a.jsonl:2/0", "a.jsonl:3/0"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("modl: x", "unknown key 'modl'; did you mean 'model'"),
        ("training: {epoch: 1}", "unknown key 'training.epoch'; did you mean 'training.epochs'"),
        ("dev_fraction: 1", "dev_fraction: Input should be less than 1"),
    ],
)
def test_a_mistake_in_the_configuration_is_one_line(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=problem) as caught:
        load_pairs(tmp_path / "c.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", sorted((ROOT / "jobs/pairs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_configuration_in_the_repository_resolves(path: Path) -> None:
    load_pairs(path)


def test_data_that_is_missing_or_teaches_nothing_is_exit_code_2_and_leaves_the_way_free(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text("model: random:llama\n")
    out = tmp_path / "out"
    options = ["-c", str(tmp_path / "c.yaml"), "--out", str(out), "--data"]
    assert main([*options, str(tmp_path / "none.jsonl")]) == 2
    assert "none.jsonl: no such file" in capsys.readouterr().err
    assert main([*options, write(tmp_path, "a.jsonl", {"passage": RAIN, "question": "What?"})]) == 2
    error = capsys.readouterr().err
    assert "no pair to train on (0 in dev, 1 dead letters)" in error and len(error.splitlines()) == 1
    assert len(list((out / "dead_letter").iterdir())) == 1 and not (out / "training").exists()


def test_no_training_without_data_or_a_place_for_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["-c", "jobs/pairs/squad-smollm2.yaml"])
    assert "--data" in capsys.readouterr().err
    with pytest.raises(DataError):
        list(each_pair("none.jsonl"))
