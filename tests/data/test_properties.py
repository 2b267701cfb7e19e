"""Whatever the input holds: no crash, usable + dead rows = rows read, and every id once."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cotray.config import parse_config
from cotray.data.prepare import prepare
from cotray.errors import DataError
from cotray.records import TeacherRequest
from cotray.storage.run_folder import DeadLetter, Manifest, RunFolder


def question(n: int, **change: Any) -> dict:
    row = {"id": f"q{n}", "question": "Which?", "choices": ["a", "b", "c"], "answer": "b"}
    return row | {"split": ("train", "train", "dev", "test")[n % 4]} | change


rows = st.one_of(
    st.builds(lambda n: json.dumps(question(n)).encode(), st.integers(0, 20)),
    st.builds(
        lambda n, column, value: json.dumps(question(n, **{column: value})).encode(),
        st.integers(0, 20),
        st.sampled_from(["id", "task", "question", "choices", "answer", "split", "facts"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
            ),
            max_leaves=6,
        ),
    ),
    st.builds(lambda size: json.dumps(question(0, question="x" * size)).encode(), st.integers(1900, 70_000)),
    st.binary(max_size=40).map(lambda data: data.replace(b"\n", b" ")),
    st.sampled_from(
        [b"", b"  ", b"\xff\xfe", b"\0", b"[" * 3000, b'{"a":' * 3000, b'{"id": "\\ud800"}', b"[]", b"7"]
    ),
)


def check_counts(path: Path, root: str) -> Manifest | None:
    """Usable + dead = read, whatever the input; None where the input as a whole was refused."""
    folder = RunFolder(root)
    try:
        manifest = prepare(parse_config({"data": {"path": str(path)}}), folder)
    except DataError:
        return None
    assert manifest.num_out + manifest.num_dead == manifest.num_in
    assert manifest.num_dead == len(list(folder.read_records("dead_letter", DeadLetter)))
    requests = list(folder.read_records("requests", TeacherRequest))
    factual = [request.id for request in requests if request.kind == "factual"]
    assert len(set(factual)) == len(factual) == manifest.num_out
    for request in requests:
        other = request.contrast_answer if request.kind == "factual" else request.target_answer
        assert "" not in (request.answer, other) and request.answer != other
    return manifest


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(st.lists(rows, max_size=12))
@example([b'{"id": "q9", "question": "Which?", "choices": "[NaN]", "answer": Infinity}'])
def test_usable_and_dead_rows_are_all_rows_of_any_json_lines(mix):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "in.jsonl"
        path.write_bytes(b"\n".join([*(json.dumps(question(n)).encode() for n in (92, 95)), *mix]))
        manifest = check_counts(path, f"{folder}/run")
        assert manifest is not None
        assert manifest.num_in == 2 + sum(bool(line.strip()) for line in mix)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_no_csv_content_is_a_crash(data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "in.csv"
        path.write_bytes(b"id,question,choices,answer,split\n1,Q?,a|b,a,train\n2,Q?,a|b,1,test\n" + data)
        assert check_counts(path, f"{folder}/run") is not None
