from __future__ import annotations

import contextlib
import gzip
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cotray.config import DataConfig
from cotray.data.file_formats import Unreadable
from cotray.data.readers import NUM_HASHED_BYTES, input_fingerprint, read_rows
from cotray.errors import ConfigError, DataError


def rows_of(path, **data) -> list:
    return list(read_rows(DataConfig(path=str(path), **data)))


def reasons(path) -> dict[str, str]:
    return {origin: row.reason for origin, row in rows_of(path) if isinstance(row, Unreadable)}


def lines(*rows: dict) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def test_json_lines_are_read_with_their_line_numbers(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + lines({"id": "a"}) + b"\r\n \n" + b'{"id": "b"}')
    assert rows_of(path) == [("a.jsonl:1", {"id": "a"}), ("a.jsonl:4", {"id": "b"})]


def test_malformed_json_lines_are_told_apart(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'{"id": \n[1, 2]\n"text"\n{"id": "caf\xe9"}\n{"id": "a\0"}\n'
        + b"[" * 100_000
        + b"\n"
        + b'{"n": '
        + b"9" * 5000
        + b"}\n"
        + lines({"id": "good"})
    )
    assert reasons(path) == {
        "a.jsonl:1": "bad JSON",
        "a.jsonl:2": "not a JSON object",
        "a.jsonl:3": "not a JSON object",
        "a.jsonl:4": "not UTF-8; save the file as UTF-8",
        "a.jsonl:5": "NUL byte",
        "a.jsonl:6": "bad JSON",
        "a.jsonl:7": "bad JSON",
    }
    assert rows_of(path)[-1] == ("a.jsonl:8", {"id": "good"})


def test_a_json_file_may_be_an_array_or_lines(tmp_path):
    (tmp_path / "array.json").write_text(' [{"id": "a"},\n {"id": "b"}, 3]')
    (tmp_path / "lines.json").write_text('{"id": "c"}\n')
    assert rows_of(tmp_path) == [
        ("array.json:1", {"id": "a"}),
        ("array.json:2", {"id": "b"}),
        ("array.json:3", Unreadable("not a JSON object", "3")),
        ("lines.json:1", {"id": "c"}),
    ]


def test_a_json_array_cut_short_is_bad_rows_not_a_crash(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('[{"id": "a"},\n{"id": "b"}\n')
    assert reasons(path) == {"a.json:1": "bad JSON"}


def test_csv_rows_are_dicts_of_text(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbfid, choices\r\na,"x|y, z"\r\n\r\nb,"two\nlines"\r\nc,d\r\n')
    assert rows_of(path) == [
        ("a.csv:2", {"id": "a", "choices": "x|y, z"}),
        ("a.csv:4", {"id": "b", "choices": "two\nlines"}),
        ("a.csv:6", {"id": "c", "choices": "d"}),
    ]


def test_malformed_csv_rows_are_told_apart(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"id,answer\na\nb,c,d\n\xff,x\n\0,x\n" + b"y" * 140_000 + b",x\ngood,yes\n")
    assert reasons(path) == {
        "a.csv:2": "wrong number of CSV columns",
        "a.csv:3": "wrong number of CSV columns",
        "a.csv:4": "not UTF-8; save the file as UTF-8",
        "a.csv:5": "NUL byte",
        "a.csv:6": "bad CSV (field larger than field limit (131072))",
    }
    assert rows_of(path)[-1] == ("a.csv:7", {"id": "good", "answer": "yes"})


def test_parquet_keeps_lists_and_isolates_rows_that_are_not_utf8(tmp_path):
    ids = pa.array([b"a", b"\xff", b"c"]).view(pa.string())
    pq.write_table(pa.table({"id": ids, "choices": [["x"], [], None]}), tmp_path / "a.parquet")
    rows = rows_of(tmp_path / "a.parquet")
    assert rows[0] == ("a.parquet:1", {"id": "a", "choices": ["x"]})
    assert rows[2] == ("a.parquet:3", {"id": "c", "choices": None})
    assert isinstance(rows[1][1], Unreadable) and "UTF-8" in rows[1][1].reason


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.gz", "a.csv.gz"])
def test_gzip_is_read_through(tmp_path, name):
    text = b"id\na\n" if "csv" in name else lines({"id": "a"})
    (tmp_path / name).write_bytes(gzip.compress(text))
    assert [row for _, row in rows_of(tmp_path / name)] == [{"id": "a"}]


def test_a_folder_is_read_by_name_at_any_depth_and_other_files_are_left(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.jsonl").write_bytes(lines({"id": "b"}))
    (tmp_path / "a.csv").write_text("id\na\n")
    (tmp_path / "sub" / "c.jsonl").write_bytes(lines({"id": "c"}))
    for ignored in ("LICENSE", ".hidden.jsonl", "_SUCCESS.json", "notes.txt"):
        (tmp_path / ignored).write_text("not rows")
    assert [origin for origin, _ in rows_of(tmp_path)] == ["a.csv:2", "b.jsonl:1", "sub/c.jsonl:1"]
    assert [origin for origin, _ in rows_of(f"{tmp_path}/")] == ["a.csv:2", "b.jsonl:1", "sub/c.jsonl:1"]


def test_the_sample_mixes_its_four_kinds_so_that_a_limit_keeps_all_of_them():
    rows = [row for _, row in rows_of("sample")]
    assert len(rows) == 256
    kinds = [row["id"].partition("-")[0] for row in rows]
    assert kinds[:8] == ["yes_no", "true_false", "five_choice", "eight_choice"] * 2
    assert {row["split"] for row in rows[:64]} == {"train", "dev", "test"}


def error_of(path) -> str:
    with pytest.raises(DataError) as caught:
        rows_of(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_source_that_cannot_be_read_is_one_line_with_a_way_out(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    assert error_of(tmp_path / "no.jsonl") == (
        f"{tmp_path}/no.jsonl: no such file or folder; "
        "give a file, folder or pattern, s3://..., hf:ID, sample or world"
    )
    assert error_of(tmp_path / "notes.txt") == (
        f"{tmp_path}/notes.txt: unsupported kind of file; "
        "cotray reads .jsonl, .ndjson, .json, .csv, .tsv, .parquet, .xlsx, .tar, and these with .gz, .zst, "
        ".bz2"
    )
    assert "no file to read in this folder" in error_of(tmp_path)
    assert "cannot be opened" in error_of("nosuch://bucket/a.jsonl")


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 but not really")
    assert "a.parquet cannot be read" in error_of(tmp_path / "a.parquet")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines({"id": "a"}) * 1000)[:-20])
    assert "b.jsonl.gz cannot be read" in error_of(tmp_path / "b.jsonl.gz")


def fingerprint_of(path) -> str:
    return input_fingerprint(DataConfig(path=str(path)))


def test_the_fingerprint_follows_content_not_place_or_time(tmp_path):
    first, second = tmp_path / "x" / "a.jsonl", tmp_path / "y" / "a.jsonl"
    for path in (first, second):
        path.parent.mkdir()
        path.write_bytes(lines({"id": "a"}))
    assert fingerprint_of(first) == fingerprint_of(second) == fingerprint_of(first.parent)
    second.write_bytes(lines({"id": "b"}))
    assert fingerprint_of(first) != fingerprint_of(second)
    (first.parent / "b.jsonl").write_bytes(b"")
    assert fingerprint_of(first.parent) != fingerprint_of(first)


def test_a_big_file_is_known_by_size_and_time(tmp_path):
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.truncate(NUM_HASHED_BYTES + 1)
    before = fingerprint_of(path)
    assert fingerprint_of(path) == before
    with path.open("ab") as file:
        file.truncate(NUM_HASHED_BYTES + 2)
    assert fingerprint_of(path) != before


def test_a_hub_data_set_is_streamed(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "set"
    folder.mkdir()
    row = {"qid": "a", "question": "Can a whale fly?", "answer": False}
    (folder / "train.jsonl").write_bytes(lines(row))
    assert rows_of(f"hf:{folder}") == [(f"hf:{folder}:1", row)]
    with pytest.raises(DataError, match=r"check the id, data\.revision=main, data\.dataset_split=nope"):
        rows_of(f"hf:{folder}", dataset_split="nope")


@contextlib.contextmanager
def hub_of(commits: dict[str, str]) -> Iterator[str]:
    """A server that answers what the Hub answers when it is asked for a data set's commit."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name, _, branch = self.path.removeprefix("/api/datasets/").partition("/revision/")
            sha = commits.get(f"{name}@{branch}")
            body = json.dumps({"id": name, "sha": sha} if sha else {"error": "not found"}).encode()
            self.send_response(200 if sha else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_hub_data_set_is_another_input_when_its_branch_has_moved_on(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    commits = {"owner/name@main": "a" * 40, "owner/other@main": "b" * 40, "owner/name@v1": "a" * 40}
    with hub_of(commits) as url:
        monkeypatch.setattr(hub.hf_api.constants, "ENDPOINT", url)
        monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
        before = fingerprint_of("hf:owner/name")
        assert fingerprint_of("hf:owner/name") == before
        assert fingerprint_of("hf:owner/other") != before
        assert input_fingerprint(DataConfig(path="hf:owner/name", revision="v1")) == before
        commits["owner/name@main"] = "c" * 40
        assert fingerprint_of("hf:owner/name") != before
        with pytest.raises(
            DataError, match=r"hf:owner/name: cannot be read .* check the id, data.revision=v2"
        ):
            input_fingerprint(DataConfig(path="hf:owner/name", revision="v2"))


def test_a_hub_data_set_without_the_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"pip install 'cotray\[hub\]'"):
        rows_of("hf:owner/name")
