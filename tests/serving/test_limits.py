"""What one client can do to the others: nothing that a limit does not stop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import uvicorn
from test_app import HEADERS, KEY, QUESTION, Scripted, client, post

from cotray.config.serving import ServingConfig
from cotray.errors import ConfigError
from cotray.inference.decoding import GREEDY, Decoding
from cotray.records import QAPair, Reply, Simulation, StudentAnswer
from cotray.serving.access import Access, load_keys
from cotray.serving.app import create_app
from cotray.serving.cached_figure import CachedFigure
from cotray.serving.chat import Extra, question_of

MEGABYTE = 1 << 20
ROW = QUESTION | {"rationale": "Wet.", "answer": "clouds"}


class Slow(Scripted):
    """Its simulator works only once it is released, and counts what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.simulating, self.most, self.may_simulate = 0, 0, asyncio.Event()

    async def simulate(self, model: str, row: StudentAnswer) -> Simulation:
        self.simulating += 1
        self.most = max(self.most, self.simulating)
        try:
            await self.may_simulate.wait()
            return await super().simulate(model, row)
        finally:
            self.simulating -= 1


def keyed(backend: Scripted, *keys: str, **serving: Any) -> Callable[[str], httpx.AsyncClient]:
    """Clients of one application, each with a key of its own."""
    app = create_app(backend, ServingConfig(**serving), keys)

    def of(key: str) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        headers = {"Authorization": f"Bearer {key}"}
        return httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers)

    return of


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0)


@contextlib.contextmanager
def listening(**serving: Any) -> Iterator[int]:
    """The port of an application that listens."""
    app = create_app(Scripted(), ServingConfig(**serving), [KEY])
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
    with socket.create_server(("127.0.0.1", 0), backlog=200) as sock:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
        thread.start()
        try:
            yield sock.getsockname()[1]
        finally:
            server.should_exit = server.force_exit = True
            thread.join(20)


def everything(port: int, sent: bytes) -> bytes:
    """All that comes until the service closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        sock.sendall(sent)
        return b"".join(iter(lambda: sock.recv(65536), b""))


def head(*lines: str, path: str = "/v1/answer") -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: x", *lines, "", ""]).encode()


WORST: dict[str, Callable[[int], str]] = {
    "spaces in a choice": lambda n: "A) x" + " " * n + "y",
    "spaces before a choice": lambda n: " " * n + "A",
    "spaces after a letter": lambda n: "A)" + " " * n,
    "letters": lambda n: "(A) " + "x " * (n // 2),
    "lines": lambda n: "\n" * n,
    "choices": lambda n: "A) x\nB) y\n" * (n // 10),
    "choices on a line": lambda n: "(A) x (B) y " * (n // 12),
    "spaces between choices on a line": lambda n: ("(A)" + " " * (n // 10)) * 10,
    "open brackets": lambda n: "(A" * (n // 2),
}


@pytest.mark.parametrize("name", WORST)
def test_choices_are_read_in_time_linear_in_the_text(name: str) -> None:
    def seconds(n: int) -> float:
        text = WORST[name](n)
        began = time.perf_counter()
        with contextlib.suppress(ValueError):
            question_of(text, Extra())
        return time.perf_counter() - began

    quarter, whole = (min(seconds(n) for _ in range(3)) for n in (MEGABYTE // 4, MEGABYTE))
    assert whole < min(10 * quarter + 0.2, 5)


@pytest.mark.parametrize("name", WORST)
def test_a_megabyte_of_text_is_refused_before_it_is_read(name: str) -> None:
    body = {"model": "student", "messages": [{"role": "user", "content": WORST[name](900_000)}]}
    began = time.perf_counter()
    response = post("/v1/chat/completions", body, max_body_bytes=4 * MEGABYTE)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "too_long")
    assert time.perf_counter() - began < 10


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("authorization", "Bearer " * 4000),
        ("authorization", "Bearer" + " " * 30_000 + "x"),
        ("host", "[" * 30_000),
        ("host", "1." * 15_000),
        ("content-type", "application/json" + ";a=" * 10_000),
        ("content-type", '"\\' * 15_000),
        ("x-request-id", "x" * 30_000),
        ("content-length", "9" * 30_000),
    ],
)
def test_headers_are_read_at_once_and_only_up_to_a_size(name: str, value: str) -> None:
    """32 KiB is all that passes; the worst of it costs nothing to speak of."""

    async def ask(value: str) -> int:
        async with client(Scripted()) as http:
            headers = HEADERS | {"content-type": "application/json", name: value}
            return (await http.post("/v1/answer", content=b"{}", headers=headers)).status_code

    began = time.perf_counter()
    assert asyncio.run(ask(value)) < 500
    assert time.perf_counter() - began < 10
    assert asyncio.run(ask(value * 35)) == 431


@pytest.mark.parametrize("body", [b"[" * MEGABYTE, b'{"a":' * 200_000, b'{"seed": ' + b"9" * 900_000 + b"}"])
def test_nested_and_endless_json_is_refused(body: bytes) -> None:
    began = time.perf_counter()
    assert post("/v1/las", body).status_code in (400, 422)
    assert time.perf_counter() - began < 10


def test_without_a_key_the_answer_does_not_wait_for_the_body() -> None:
    sent = head("Content-Type: application/json", "Content-Length: 1000") + b"{"
    with listening(timeout_s=60) as port:
        began = time.perf_counter()
        answer = everything(port, sent)
        assert time.perf_counter() - began < 10
    assert answer.startswith(b"HTTP/1.1 401") and b"connection: close" in answer.lower()


@pytest.mark.parametrize("lines", [("Content-Length: 1000",), ("Transfer-Encoding: chunked",)])
def test_a_body_that_does_not_come_has_a_deadline_of_its_own(lines: tuple[str, ...]) -> None:
    sent = head("Content-Type: application/json", f"Authorization: Bearer {KEY}", *lines)
    with listening(timeout_s=60, body_timeout_s=0.2) as port:
        answer = everything(port, sent + (b"1\r\n{\r\n" if "chunked" in lines[0] else b"{"))
    assert answer.startswith(b"HTTP/1.1 408") and b"connection: close" in answer.lower()


def test_rows_of_many_requests_leave_places_for_answers() -> None:
    async def ask() -> tuple[int, int, int]:
        backend = Slow()
        of = keyed(backend, "a", max_queued=16)
        async with of("a") as http:
            body = {"rows": [ROW] * 50, "num_resamples": 100}
            batches = [asyncio.ensure_future(http.post("/v1/las", json=body)) for _ in range(4)]
            await until(lambda: backend.simulating >= 4)
            for _ in range(100):  # more of them could come
                await asyncio.sleep(0)
            status = (await http.post("/v1/answer", json=QUESTION)).status_code
            backend.may_simulate.set()
            lines = [(await batch).text.splitlines() for batch in batches]
            return status, backend.most, sum(len(each) for each in lines)

    assert asyncio.run(asyncio.wait_for(ask(), 60)) == (200, 4, 4 * 51)


class Answering(Scripted):
    """Counts the answers that it is asked for at once."""

    def __init__(self) -> None:
        super().__init__()
        self.num_asked, self.most = 0, 0
        self.released.clear()

    async def answer(
        self, model: str, pair: QAPair, rationale: str | None, decoding: Decoding = GREEDY
    ) -> Reply:
        self.num_asked += 1
        self.most = max(self.most, self.num_asked)
        try:
            return await super().answer(model, pair, rationale, decoding)
        finally:
            self.num_asked -= 1


@pytest.mark.parametrize(
    ("batch_size", "replicas", "most"),
    [(6, (1, 4), 3), (6, (2, 4), 6), (1, (0, 1), 1), (100, (1, 1), 16)],
    ids=["half a batch", "of two replicas", "one at least", "a quarter of the queue"],
)
def test_rows_fill_half_of_the_students_batches(
    batch_size: int, replicas: tuple[int, int], most: int
) -> None:
    student = {"max_batch_size": batch_size, "replicas": {"min": replicas[0], "max": replicas[1]}}

    async def ask() -> tuple[int, int]:
        backend = Answering()
        async with keyed(backend, "a", student=student)("a") as http:
            body = {"rows": [QUESTION] * 40, "num_resamples": 100}
            rows = [asyncio.ensure_future(http.post("/v1/las", json=body)) for _ in range(2)]
            await until(lambda: backend.num_asked >= most)
            for _ in range(100):  # more of them could come
                await asyncio.sleep(0)
            seen = backend.most
            backend.released.set()
            lines = [(await each).text.splitlines() for each in rows]
            return seen, sum(map(len, lines))

    assert asyncio.run(asyncio.wait_for(ask(), 60)) == (most, 2 * 41)


def test_a_key_that_asks_for_all_places_leaves_some_to_the_others() -> None:
    async def ask() -> tuple[list[int], int]:
        backend = Scripted()
        backend.released.clear()
        of = keyed(backend, "a", "b", max_queued=8)
        async with of("a") as a, of("b") as b:
            asked = [asyncio.ensure_future(a.post("/v1/answer", json=QUESTION)) for _ in range(20)]
            await until(lambda: sum(each.done() for each in asked) >= 14)
            other = asyncio.ensure_future(b.post("/v1/answer", json=QUESTION))
            for _ in range(100):
                await asyncio.sleep(0)
            backend.released.set()
            return [(await each).status_code for each in asked], (await other).status_code

    statuses, other = asyncio.run(asyncio.wait_for(ask(), 60))
    assert (statuses.count(200), statuses.count(503), other) == (6, 14, 200)


def test_a_key_has_only_so_many_requests_under_way() -> None:
    """Bodies that never come hold no model, but a place of the ingress."""
    begun = head("Content-Type: application/json", f"Authorization: Bearer {KEY}", "Content-Length: 9") + b"{"
    with listening(max_queued=1, body_timeout_s=1) as port, ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: everything(port, begun), range(20)))
    statuses = Counter(answer.split()[1] for answer in answers)
    assert statuses == {b"408": 8, b"503": 12}


def test_rows_count_against_the_rate_of_their_key() -> None:
    async def ask() -> list[int]:
        async with client(Scripted(), requests_per_minute=10) as http:
            body = {"rows": [ROW] * 30, "num_resamples": 100}
            return [(await http.post("/v1/las", json=body)).status_code for _ in range(2)]

    assert asyncio.run(ask()) == [200, 429]
    now = 0.0
    access = Access(("a",), per_minute=10, clock=lambda: now)
    key = access.key_of("Bearer a") or b""
    assert access.wait_s(key) == 0
    access.charge(key, 29)  # 10 - 30: 21 have to come back
    assert access.wait_s(key) == pytest.approx(126)


@pytest.mark.parametrize(
    ("address", "headers", "status"),
    [
        ("127.0.0.1", {"host": "localhost:8000"}, 200),
        ("127.0.0.1", {"host": "127.0.0.1"}, 200),
        ("::1", {"host": "[::1]:8000"}, 200),
        ("10.0.0.7", {"host": "localhost"}, 403),
        ("127.0.0.1", {"host": "rebound.example"}, 403),
        ("127.0.0.1", {"host": "localhost.example"}, 403),
        ("127.0.0.1", {"host": "[::1"}, 403),
        ("127.0.0.1", {"host": ""}, 403),
        ("127.0.0.1", {"host": "localhost", "x-forwarded-for": "127.0.0.1"}, 403),
    ],
)
def test_open_serving_answers_this_machine_alone(address: str, headers: dict[str, str], status: int) -> None:
    async def ask() -> int:
        app = create_app(Scripted(), ServingConfig(api_keys="open"), [])
        transport = httpx.ASGITransport(app, client=(address, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            return (await http.post("/v1/answer", json=QUESTION, headers=headers)).status_code

    assert asyncio.run(ask()) == status


def test_an_indented_comment_is_no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "keys").write_text("  # the old one\n\t#none\none\n")
    assert load_keys(ServingConfig(api_keys=str(tmp_path / "keys"))) == ("one",)
    (tmp_path / "keys").write_text("  # nothing yet\n")
    with pytest.raises(ConfigError, match="no API key"):
        load_keys(ServingConfig(api_keys=str(tmp_path / "keys")))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/las", {"rows": [ROW], "seed": -1}),
        ("/v1/las", {"rows": [ROW], "seed": 1 << 64}),
        ("/v1/las", b'{"rows": [{"id": "\\ud800", "question": "Q?", "rationale": "R", "answer": "a"}]}'),
        ("/v1/answer", b'{"question": "Q?", "model": "\\udfff"}'),
        ("/v1/answer", b'{"question": "Q?", "\\ud800": 1}'),
        ("/v1/completions", b'{"model": "student", "prompt": "\\ud800", "stream": true}'),
    ],
)
def test_what_would_break_a_response_is_refused_before_it_begins(path: str, body: Any) -> None:
    response = post(path, body)
    assert (response.status_code, response.json()["error"]["code"]) == (422, "invalid_request")
    whole = b'{"question": "Is \\ud83d\\ude00 a face?", "task": "yes_no"}'  # both halves
    assert post("/v1/answer", whole).status_code == 200


class Broken(Scripted):
    async def stream(
        self, model: str, pair: QAPair, decoding: Decoding = GREEDY
    ) -> AsyncIterator[str | Reply]:
        yield "Wet. "
        raise ZeroDivisionError("secret")

    async def simulate(self, model: str, row: StudentAnswer) -> Simulation:
        raise ZeroDivisionError("secret")


def test_a_stream_that_fails_ends_with_an_error() -> None:
    lines = post("/v1/las", {"rows": [ROW] * 3}, Broken()).text.splitlines()
    last = json.loads(lines[-1])
    assert (last["type"], last["error"]["code"]) == ("error", "internal")
    body = {"model": "student", "prompt": "Q?", "stream": True}
    events = [line for line in post("/v1/completions", body, Broken()).text.split("\n\n") if line]
    assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "internal"
    assert "secret" not in str(lines + events)


@pytest.mark.parametrize("id", [b"\xe9", "é".encode(), b"a b", b"x" * 129])
def test_an_id_that_is_none_is_replaced(id: bytes) -> None:
    async def ask() -> httpx.Response:
        async with client(Scripted()) as http:
            headers = [(b"authorization", f"Bearer {KEY}".encode()), (b"x-request-id", id)]
            return await http.post("/v1/answer", json=QUESTION, headers=headers)

    response = asyncio.run(ask())
    assert response.status_code == 200
    assert response.json()["id"] == response.headers["x-request-id"] and len(response.json()["id"]) == 32


def test_a_figure_that_many_ask_for_is_made_once_a_second() -> None:
    async def ask() -> list[int]:
        now, made = [0.0], iter(range(9))

        async def make() -> int:
            await asyncio.sleep(0)
            return next(made)

        recent = CachedFigure(make, clock=lambda: now[0])
        seen = await asyncio.gather(*(recent.get() for _ in range(5)))
        now[0] = 0.5
        seen.append(await recent.get())
        now[0] = 1.5
        return [*seen, await recent.get()]

    assert asyncio.run(ask()) == [0] * 6 + [1]
