"""The questions that benchmarks of teachers, students and endpoints are run on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cotray.bench.teacher import teacher_requests
from cotray.errors import DataError
from cotray.records import TeacherRequest

UNUSABLE = {"id": "bad", "question": "Which is it?", "choices": ["ice", "tin"], "answer": "sand"}


def test_a_benchmark_asks_the_first_usable_questions_of_its_data(tmp_path: Path) -> None:
    rows = [{"id": str(n), "question": f"Is {n} odd?", "answer": "yes" if n % 2 else "no"} for n in range(5)]
    rows.insert(1, UNUSABLE)
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    requests = teacher_requests(str(tmp_path / "q.jsonl"), 3)
    assert all(isinstance(request, TeacherRequest) for request in requests)
    assert [(r.id, r.kind, r.target_answer, r.contrast_answer) for r in requests] == [
        ("0", "factual", "no", "yes"),
        ("1", "factual", "yes", "no"),
        ("2", "factual", "no", "yes"),
    ]
    assert len(teacher_requests("sample", 64)) == 64


def test_data_without_a_usable_question_ends_a_benchmark(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text(json.dumps(UNUSABLE))
    with pytest.raises(DataError, match="no usable question"):
        teacher_requests(str(tmp_path / "q.jsonl"), 3)
