"""A student behind /v1/answer, against a server that is busy, refuses, or answers out of order."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from cotray.errors import ConfigError
from cotray.records import QAPair
from cotray.scoring.served_student import ServedStudent

PAIRS = [
    QAPair("a", "yes_no", "Is ice cold?", ("yes", "no"), "yes"),
    QAPair("b", "multiple_choice", "Where does rain come from?", ("clouds", "rivers"), "clouds"),
    QAPair("c", "open", "Who sings?", (), "larks"),
]


@contextmanager
def server(answering: Callable[[dict[str, Any], int], tuple[int, Any]]) -> Iterator[tuple[str, list[Any]]]:
    """`answering(body, number)` -> status and JSON; also (key, path, body) of every request."""
    seen: list[Any] = []
    one_at_a_time = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with one_at_a_time:
                seen.append((self.headers.get("Authorization"), self.path, body))
                status, said = answering(body, len(seen) - 1)
            data = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Retry-After", "0")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None: ...

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}", seen
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def by_question(body: dict[str, Any], _: int) -> tuple[int, Any]:
    return 200, {"rationale": f"Of {body['question']}", "answer": body.get("rationale", "own")}


def test_questions_are_asked_as_the_server_takes_them_and_answers_keep_their_order() -> None:
    with server(by_question) as (url, seen):
        student = ServedStudent(f"{url}/", model="v2", key="sesame", concurrency=3)
        assert student.explain(PAIRS) == [(f"Of {pair.question}", "own") for pair in PAIRS]
        assert student.answers_after(PAIRS, ["r1", "r2", "r3"]) == ["r1", "r2", "r3"]
    assert {(key, path) for key, path, _ in seen} == {("Bearer sesame", "/v1/answer")}
    asked = {body["question"]: body for _, _, body in seen if "rationale" not in body}
    assert asked["Is ice cold?"] == {
        "question": "Is ice cold?",
        "task": "yes_no",
        "choices": [],
        "model": "v2",
    }
    assert asked["Where does rain come from?"]["choices"] == ["clouds", "rivers"]


def test_a_busy_server_is_asked_again() -> None:
    def busy(body: dict[str, Any], number: int) -> tuple[int, Any]:
        return ((429, {}), (503, {}), by_question(body, number))[number] if number < 3 else (500, {})

    with server(busy) as (url, seen):
        assert ServedStudent(url).explain(PAIRS[:1]) == [("Of Is ice cold?", "own")]
    assert len(seen) == 3 and seen[0][0] is None


@pytest.mark.parametrize(
    ("status", "error", "said"),
    [
        (401, ConfigError, "401: give a key"),
        (404, ConfigError, "404: give a key"),
        (400, ValueError, "400: give a key"),
    ],
)
def test_what_is_refused_says_why_and_is_not_asked_again(
    status: int, error: type[Exception], said: str
) -> None:
    with (
        server(lambda body, number: (status, {"error": {"message": "give a\nkey"}})) as (url, seen),
        pytest.raises(error, match=said),
    ):
        ServedStudent(url).explain(PAIRS[:1])
    assert len(seen) == 1
