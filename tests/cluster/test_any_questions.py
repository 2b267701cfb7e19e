"""Questions in whatever columns they come in go through every stage on a real cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import pytest
from published import EXAMPLES

from cotray.config import RunConfig, load_config
from cotray.data.layouts import layouts
from cotray.data.questions import parse_pair
from cotray.records import QAPair, Rationale, Simulation, StudentAnswer
from cotray.stages.run import run_stages
from cotray.storage.run_folder import RunFolder

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.usefixtures("shared_cluster")]

T = TypeVar("T", bound=QAPair)
SPLITS = ("train", "train", "dev", "test")
SMOKE = Path(__file__).parents[2] / "jobs/configs/smoke.yaml"
EMPTY = "empty rationale: the teacher stopped at once"
"""What untrained weights now and then write."""
SIX_LINES = """
data:
  path: {path}
  columns:
    question: "Premise: {{premise}} Hypothesis: {{hypothesis}}"
    answer: label
  labels: [entailment, neutral, contradiction]
"""


def copies_of(name: str) -> list[dict[str, Any]]:
    """The layout's example with other words, so that each copy is a question of its own."""
    text = json.dumps(EXAMPLES[name].row)
    words = EXAMPLES[name].question.rstrip("?.").split()
    word = next(word for word in reversed(words) if f" {word}" in text)
    own_id = EXAMPLES[name].id
    copies = []
    for n, split in enumerate(SPLITS):
        copy = text.replace(f" {word}", f" {word} {name} {n}").replace(f'"{own_id}"', f'"{own_id}-{n}"')
        row = json.loads(copy.replace("#### 1,200", f"#### {n}"))
        row |= {"split": split} | ({"question_id": n} if name == "mmlu_pro" else {})
        copies.append(row)
    return copies


def settings(root: Path) -> list[str]:
    return ["data.limit=0", f"run_dir={root / 'run'}", "teacher.decoding.max_new_tokens=4"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, dict[str, set[str]]]:
    """A folder with a file of every layout, from questions to figures; and the ids of each layout's rows."""
    root = tmp_path_factory.mktemp("any")
    (root / "data").mkdir()
    for name in EXAMPLES:
        lines = (json.dumps(row) + "\n" for row in copies_of(name))
        (root / "data" / f"{name}.jsonl").write_text("".join(lines))
    config = load_config(SMOKE, [*settings(root), f"data.path={root / 'data'}"])
    config = config.for_method(config.methods[0])
    run_stages(config, reuse_from=[], label="any")
    ids = {
        name: {parse_pair(row, config.data, seed=config.seed).id for row in copies_of(name)}
        for name in EXAMPLES
    }
    return config, ids


def rows_of(config: RunConfig, stage: str, record: type[T], ids: set[str]) -> list[T]:
    folder = RunFolder(config.run_dir)
    return [row for row in folder.read_records(stage, record) if row.id in ids]


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_layout_goes_through_prepare_generate_train_and_score(
    name: str, run: tuple[RunConfig, dict[str, set[str]]]
) -> None:
    config, ids = run
    assert len(ids[name]) == len(SPLITS)
    rationales = rows_of(config, "rationales", Rationale, ids[name])
    factual = [row for row in rationales if row.kind == "factual"]
    assert {row.id for row in factual} == ids[name]
    assert {row.error for row in rationales} <= {"", EMPTY}
    assert {row.task for row in factual} == {EXAMPLES[name].task}
    in_train = {row.id for row in factual if row.split == "train"}
    assert {row.id for row in rationales if row.kind == "counterfactual"} == in_train
    answers = rows_of(config, "answers", StudentAnswer, ids[name])
    assert {row.id for row in answers} == ids[name]
    assert all(row.student_answer in row.choices for row in answers if row.choices)
    in_test = {row.id for row in factual if row.split == "test"}
    simulations = rows_of(config, "simulations", Simulation, ids[name])
    assert {row.id for row in simulations} == in_test and (len(in_train), len(in_test)) == (2, 1)
    assert all(row.sim_xe in row.choices for row in simulations if row.choices)
    for row in rationales:
        is_free = layouts()[name].task in ("open", "number")
        assert row.target_answer in row.choices or (is_free and row.target_answer)


def test_all_questions_were_learned_from(run: tuple[RunConfig, dict[str, set[str]]]) -> None:
    config, ids = run
    folder = RunFolder(config.run_dir)
    requests, student = folder.require("requests", "prepare"), folder.require("student", "train")
    assert requests.num_out == len(SPLITS) * len(ids) and requests.num_dead == 0
    rationales = folder.read_records("rationales", Rationale)
    usable = [row for row in rationales if row.kind == "factual" and row.split == "train" and not row.error]
    assert student.metrics["factual"] == len(usable) > 0.9 * requests.metrics["split/train"]
    for name in ids:
        assert requests.metrics[f"layout/{name}"] == len(SPLITS)


def test_a_csv_with_semicolons_integer_labels_and_no_id_is_described_in_six_lines(tmp_path: Path) -> None:
    rows = [f"A cat sees bird {n}.;An animal sees {n}.;{n % 3}" for n in range(24)]
    path = tmp_path / "pairs.csv"
    path.write_text("\n".join(["premise;hypothesis;label", *rows]) + "\n")
    lines = SIX_LINES.format(path=path)
    assert len(lines.strip().splitlines()) == 6
    models = SMOKE.read_text().partition("teacher:")
    config_file = tmp_path / "mine.yaml"
    config_file.write_text(lines + models[1] + models[2])
    config = load_config(config_file, [f"run_dir={tmp_path / 'run'}", "teacher.decoding.max_new_tokens=4"])
    run_stages(config, reuse_from=[], label="six lines")
    folder = RunFolder(config.run_dir)
    pairs = list(folder.read_records("answers", QAPair))
    assert len(pairs) == 24 and {pair.task for pair in pairs} == {"nli"}
    names = ("entailment", "neutral", "contradiction")
    assert {(pair.question, pair.answer) for pair in pairs} == {
        (f"Premise: A cat sees bird {n}. Hypothesis: An animal sees {n}.", names[n % 3]) for n in range(24)
    }
    assert folder.require("simulations", "score").metrics["accuracy"]["n"] > 0
