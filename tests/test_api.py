"""cotray from Python: the same results as the stages, in the form in which rows came, without Ray."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pandas
import pytest
import torch

import cotray
from cotray.config import DecodingConfig, ScoringConfig, TeacherConfig
from cotray.data.perturbation import Source, requests_of
from cotray.errors import DataError
from cotray.models.loading import load_model, load_tokenizer
from cotray.models.locations import model_path
from cotray.prompts.student import trained_prompt
from cotray.records import QAPair, Simulation, StudentAnswer
from cotray.scoring.las import las as las_of
from cotray.scoring.simulator import Simulator
from cotray.scoring.student import Student
from cotray.teacher.transformers_teacher import TransformersTeacher

ROWS = [
    {
        "id": f"q{n}",
        "question": f"Is {n} even?",
        "choices": ["yes", "no"],
        "answer": "yes" if n % 2 == 0 else "no",
    }
    for n in range(4)
] + [{"id": "m", "question": "Which is wet?", "choices": ["sea", "sand", "sky"], "answer": "sea"}]
PAIRS = [
    QAPair(row["id"], "yes_no" if row["id"] != "m" else "multiple_choice", row["question"],
           tuple(row["choices"]), row["answer"])
    for row in ROWS
]  # fmt: skip


def in_memory() -> tuple[Any, Any]:
    return load_model("random:llama", dtype=torch.float32), load_tokenizer("random:llama")


def test_rationales_are_those_of_the_teacher_and_the_model_is_as_before() -> None:
    model, tokenizer = in_memory()
    ids = torch.tensor([[5, 9, 17, 40]])
    before = model(input_ids=ids).logits
    made = cotray.contrastive_generate(
        model, tokenizer, ROWS, teacher={"num_demonstrations": 1}, max_new_tokens=8, weight=0.3
    )
    assert torch.equal(model(input_ids=ids).logits, before)
    config = TeacherConfig(
        model="random:llama", num_demonstrations=1, decoding=DecodingConfig(max_new_tokens=8, weight=0.3)
    )
    requests = [requests_of(pair, "wrong", Source(42))[0] for pair in PAIRS]
    expected = TransformersTeacher(config, method="contrast-wrong", seed=42).generate(requests)
    assert [row["rationale"] for row in made] == [row.rationale for row in expected]
    assert [row["contrast_answer"] for row in made] == [request.contrast_answer for request in requests]
    assert [row["id"] for row in made] == [row["id"] for row in ROWS]


@pytest.mark.parametrize("form", ["dicts", "pandas", "datasets"])
def test_rows_come_back_as_what_they_were_with_more_columns(form: str) -> None:
    model, tokenizer = in_memory()
    rows: Any = ROWS
    if form == "pandas":
        rows = pandas.DataFrame(ROWS, index=list("abcde"))
    if form == "datasets":
        rows = datasets.Dataset.from_list(ROWS)
    made: Any = cotray.contrastive_generate(
        model, tokenizer, rows, method="greedy", teacher={"num_demonstrations": 0}, max_new_tokens=4
    )
    assert type(made) is type(rows) and len(made) == len(ROWS)
    columns = list(made[0]) if form == "dicts" else getattr(made, "column_names", None) or list(made.columns)
    assert {"id", "question", "rationale", "contrast_answer", "stop_reason", "error"} <= set(columns)
    if form == "pandas":
        assert list(made.index) == list("abcde")


def test_columns_are_described_as_in_a_configuration_and_a_bad_row_is_named() -> None:
    model, tokenizer = in_memory()
    rows = [{"premise": "It rains.", "hypothesis": "It is wet.", "label": n} for n in (0, 1)]
    data = {
        "columns": {"question": "{premise} {hypothesis}", "answer": "label"},
        "labels": ["entailment", "neutral", "contradiction"],
    }
    options: dict[str, Any] = {"teacher": {"num_demonstrations": 0}, "max_new_tokens": 2}
    made = cotray.contrastive_generate(model, tokenizer, rows, data=data, **options)
    assert [(row["task"], row["answer"]) for row in made] == [("nli", "entailment"), ("nli", "neutral")]
    with pytest.raises(DataError, match="row 1: no label has the number"):
        cotray.contrastive_generate(model, tokenizer, [rows[0], rows[1] | {"label": 7}], data=data, **options)


def test_student_and_simulator_answer_as_the_stages_do_and_las_is_theirs(tmp_path: Path) -> None:
    folder = model_path("random:qwen2")
    student = cotray.Student.load(folder, max_new_tokens=8)
    reference = Student(
        folder, config=ScoringConfig(max_new_tokens=8), prompt=trained_prompt("on"), seed=0, method=""
    )
    answered = student.answer_all(ROWS)
    replies = reference.respond(PAIRS, [None] * len(PAIRS))
    assert [(r["rationale"], r["student_answer"]) for r in answered] == [
        (r.rationale, r.answer) for r in replies
    ]
    given = student.answer("Is 1 even?", ["yes", "no"], rationale="One is odd.")
    [reply] = reference.respond([PAIRS[1]], ["One is odd."])
    assert given["answer"] == reply.answer and given["rationale"] == "One is odd."
    assert sum(given["probabilities"].values()) == pytest.approx(1)
    assert max(given["probabilities"], key=given["probabilities"].get) == given["answer"]

    simulated = cotray.simulate(answered, model_path("random:t5"))
    answers = [
        StudentAnswer.from_row(
            pair.to_row() | {"rationale": r["rationale"], "student_answer": r["student_answer"]}
        )
        for pair, r in zip(PAIRS, answered, strict=True)
    ]
    expected: list[Simulation] = Simulator("random:t5", mode="trained").simulate(answers)
    arms = ("sim_x", "sim_e", "sim_xe")
    assert [[r[arm] for arm in arms] for r in simulated] == [
        [getattr(e, arm) for arm in arms] for e in expected
    ]
    report = cotray.las(pandas.DataFrame(simulated), num_resamples=200)
    columns = [[r[name] for r in simulated] for name in ("student_answer", *arms)]
    assert report == las_of(*columns, num_resamples=200, seed=0)


def test_nothing_is_imported_before_it_is_asked_for() -> None:
    script = (
        "import sys, cotray; assert 'torch' not in sys.modules; cotray.las; assert 'ray' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = cotray.nothing  # type: ignore[attr-defined]
