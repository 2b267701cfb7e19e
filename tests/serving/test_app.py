"""The HTTP application over a backend made by hand; the real models are behind it in test_serve.py."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from cotray.config import RunConfig, parse_config
from cotray.config.serving import ServingConfig
from cotray.errors import ConfigError
from cotray.inference.decoding import GREEDY, Decoding
from cotray.records import QAPair, Reply, Simulation, StudentAnswer
from cotray.scoring.las import las
from cotray.serving.access import Access, load_keys
from cotray.serving.app import create_app
from cotray.serving.las_window import Window, Windows
from cotray.serving.service import Unavailable

KEY = "secret-key"
HEADERS = {"Authorization": f"Bearer {KEY}"}


class Scripted:
    """Answers with the first choice; its simulator says the first choice too, the last without x."""

    def __init__(self) -> None:
        self.shares = {"student": 1.0}
        self.observed: list[StudentAnswer] = []
        self.decodings: list[Decoding] = []
        self.is_busy = False
        self.released = asyncio.Event()
        self.released.set()

    async def answer(
        self, model: str, pair: QAPair, rationale: str | None, decoding: Decoding = GREEDY
    ) -> Reply:
        if self.is_busy:
            raise Unavailable("all models are busy; try again")
        await self.released.wait()
        answer = pair.choices[0] if pair.choices else "rain"
        logprobs = tuple(-float(index) for index in range(len(pair.choices)))
        text = f"Wet. So the answer is {answer}"
        self.decodings.append(decoding)
        return Reply(text, rationale or "Wet.", answer, True, logprobs, 5, 4)

    async def stream(
        self, model: str, pair: QAPair, decoding: Decoding = GREEDY
    ) -> AsyncIterator[str | Reply]:
        reply = await self.answer(model, pair, None, decoding)
        for word in reply.text.split(" "):
            yield f"{word} "
        yield reply

    async def simulate(self, model: str, row: StudentAnswer) -> Simulation:
        first, *_, last = row.choices or ("rain", "snow")
        says = {"sim_x": first, "sim_e": last, "sim_xe": first}
        return Simulation.from_row(row.to_row() | says)

    def observe(self, model: str, row: StudentAnswer) -> None:
        self.observed.append(row)

    async def live(self) -> dict[str, Any]:
        return {"versions": {"student": {"las": 0.1, "alarm": True, "stale": False}}}

    async def ready(self) -> dict[str, dict[str, bool]]:
        return {"student": {"student": not self.is_busy}, "simulator": {"student": False}}


def client(backend: Scripted, **serving: Any) -> httpx.AsyncClient:
    app = create_app(backend, ServingConfig(**serving), [KEY])
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test", headers=HEADERS)


def post(path: str, body: Any, backend: Scripted | None = None, **serving: Any) -> httpx.Response:
    async def ask() -> httpx.Response:
        async with client(backend or Scripted(), **serving) as http:
            if isinstance(body, bytes):
                return await http.post(path, content=body, headers={"content-type": "application/json"})
            return await http.post(path, json=body)

    return asyncio.run(ask())


def get(path: str, backend: Scripted | None = None, **headers: str) -> httpx.Response:
    async def ask() -> httpx.Response:
        async with client(backend or Scripted()) as http:
            return await http.get(path, headers=headers)

    return asyncio.run(ask())


QUESTION = {"question": "Where does rain come from?", "choices": ["clouds", "rivers"]}


def test_an_answer_has_probabilities_that_add_up_to_one() -> None:
    answer = post("/v1/answer", QUESTION).json()
    assert (answer["answer"], answer["rationale"], answer["choices"]) == (
        "clouds",
        "Wet.",
        ["clouds", "rivers"],
    )
    # softmax of (0, -1): 1 / (1 + e^-1)
    assert answer["probabilities"] == pytest.approx([0.7310586, 0.2689414])


def test_the_counterfactual_switch_answers_after_the_given_rationale() -> None:
    backend = Scripted()
    answer = post("/v1/answer", QUESTION | {"rationale": "Rivers rise."}, backend, live_share=1).json()
    assert answer["rationale"] == "Rivers rise."
    assert backend.observed == []  # not a live answer of the student


def test_a_chat_answers_the_question_and_gives_the_parts_apart() -> None:
    messages = [{"role": "user", "content": "Where does rain come from?\n(A) clouds\n(B) rivers"}]
    body = post("/v1/chat/completions", {"model": "student", "messages": messages}).json()
    message = body["choices"][0]["message"]
    assert message["content"] == "Wet. So the answer is clouds"
    assert message["cotray"] == {
        "rationale": "Wet.",
        "answer": "clouds",
        "wrote_answer": True,
        "added": "",
        "choices": ["clouds", "rivers"],
        "answer_logprobs": [0.0, -1.0],
    }
    assert body["usage"] == {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}


def test_a_stream_is_server_sent_events_that_end_with_done() -> None:
    body = {"model": "student", "prompt": "Rain?", "stream": True, "stream_options": {"include_usage": True}}
    lines = [line for line in post("/v1/completions", body).text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    events = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    text = "".join(event["choices"][0]["text"] for event in events if event["choices"])
    assert text.split() == ["Wet.", "So", "the", "answer", "is", "rain"]
    assert events[-1]["usage"]["total_tokens"] == 9


def test_las_of_rows_streams_every_row_and_equals_the_function() -> None:
    rows = [QUESTION | {"rationale": "Wet.", "answer": answer} for answer in ("clouds", "rivers")] * 20
    text = post("/v1/las", {"rows": rows, "num_resamples": 500, "seed": 3}).text
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["type"] for line in lines] == ["row"] * 40 + ["las"]
    assert [line["done"] for line in lines[:40]] == list(range(1, 41))
    answers = [row["answer"] for row in rows]
    n = len(rows)
    expected = las(answers, ["clouds"] * n, ["rivers"] * n, ["clouds"] * n, num_resamples=500, seed=3)
    assert lines[-1]["las"]["las"] == expected.las
    assert tuple(lines[-1]["las"]["ci95"]) == expected.ci95


@pytest.mark.parametrize("authorization", ["", "Bearer wrong", f"Basic {KEY}", KEY, "Bearer "])
def test_without_the_right_key_nothing_below_v1_answers(authorization: str) -> None:
    response = get("/v1/models", authorization=authorization)
    assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
    assert get("/healthz", authorization=authorization).status_code == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 422),
        (b"\xff\xfe", 422),
        (b'{"question": "\\ud800"}', 422),
        ({}, 422),
        ({"question": " "}, 422),
        ({"question": "Q?", "choices": ["a", "a"]}, 422),
        ({"question": "Q?", "choices": ["a"]}, 422),
        ({"question": "Q?", "chioces": []}, 422),
        ({"question": "Q?", "choices": [f"c{i}" for i in range(1000)]}, 400),
        ({"question": "Q?", "choices": [f"c{i}" for i in range(1001)]}, 422),
        ({"question": "Q?", "model": "other"}, 404),
        ({"question": "Q" * 20_001}, 422),
        (b" " * (1 << 20) + b"{}", 413),
    ],
)
def test_bad_requests_get_an_error_in_openais_shape(body: Any, status: int) -> None:
    response = post("/v1/answer", body)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and "Traceback" not in response.text
    assert response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/v1/answer", b'{"question": ', "the body is no JSON: an error at character 13"),
        ("/v1/answer", b"", "the body: Field required"),
        ("/v1/answer", b"[]", "the body: Input should be a valid dictionary"),
        ("/v1/answer", {}, "question: Field required"),
        ("/v1/answer", {"question": "Q?", "choices": ["a"]}, "choices: one is no choice; give two or more"),
        ("/v1/answer", {"question": "Q?", "choices": ["a", ""]}, "choices.1: String should have at least 1"),
        ("/v1/answer", QUESTION | {"choices": [f"c{i}" for i in range(101)]}, "choices: 100 of one question"),
        ("/v1/answer", {"question": "Q" * 9000}, "8000 characters at most (serving.max_chars)"),
        ("/v1/las", {"rows": [QUESTION, {"question": 5}]}, "rows.1.question: Input should be a valid string"),
        ("/v1/las", {"rows": [QUESTION] * 3}, "rows: 2 at most (serving.max_rows)"),
    ],
)
def test_a_message_names_the_field_and_what_it_wants(path: str, body: Any, message: str) -> None:
    response = post(path, body, max_rows=2)
    assert response.status_code in (400, 422) and message in response.json()["error"]["message"]


def test_a_full_queue_is_503_with_retry_after_and_so_is_a_busy_model() -> None:
    async def ask() -> list[httpx.Response]:
        backend = Scripted()
        backend.released.clear()
        async with client(backend, max_queued=2) as http:
            asked = [asyncio.ensure_future(http.post("/v1/answer", json=QUESTION)) for _ in range(3)]
            first, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            backend.released.set()
            return [first.pop().result(), *[await each for each in asked]]

    refused, *answered = asyncio.run(asyncio.wait_for(ask(), 20))
    assert refused.headers["retry-after"] == "1" and refused.json()["error"]["code"] == "overloaded"
    assert sorted(response.status_code for response in answered) == [200, 200, 503]
    backend = Scripted()
    backend.is_busy = True
    for body in ({"model": "student", "prompt": "Q?", "stream": flag} for flag in (False, True)):
        assert post("/v1/completions", body, backend).status_code == 503


def test_what_takes_too_long_is_504() -> None:
    backend = Scripted()
    backend.released.clear()
    assert post("/v1/answer", QUESTION, backend, timeout_s=0.05).status_code == 504


def test_a_share_of_the_answers_is_observed() -> None:
    backend = Scripted()
    post("/v1/answer", QUESTION, backend, live_share=1)
    post("/v1/completions", {"model": "student", "prompt": "Q?", "stream": True}, backend, live_share=1)
    post("/v1/answer", QUESTION, backend, live_share=0)
    assert [row.student_answer for row in backend.observed] == ["clouds", "rain"]


def test_an_alarm_turns_the_faithfulness_check_red() -> None:
    response = get("/healthz/faithfulness")
    assert (response.status_code, response.json()["alarms"]) == (503, {"student": 0.1})


def test_a_key_has_its_requests_per_minute_and_gets_them_back() -> None:
    now = 0.0
    access = Access(("a", "b"), per_minute=2, clock=lambda: now)
    a, b = access.key_of("Bearer a"), access.key_of("Bearer b")
    assert a and b
    assert [access.wait_s(a) for _ in range(3)] == [0, 0, 30] and access.wait_s(b) == 0
    now = 30.0
    assert [access.wait_s(a) for _ in range(2)] == [0, 30]


def test_without_keys_serving_is_refused_and_open_is_for_loopback_alone(monkeypatch, tmp_path) -> None:
    monkeypatch.delenv("COTRAY_API_KEYS", raising=False)
    with pytest.raises(ConfigError, match="no API key"):
        load_keys(ServingConfig())
    assert load_keys(ServingConfig(api_keys="open")) == ()
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1 alone"):
        parse_config({"serving": {"api_keys": "open", "host": "0.0.0.0"}})
    (tmp_path / "keys").write_text("# staging\none\n\ntwo\n")
    assert load_keys(ServingConfig(api_keys=str(tmp_path / "keys"))) == ("one", "two")
    monkeypatch.setenv("COTRAY_API_KEYS", "three, four")
    assert load_keys(RunConfig().serving) == ("three", "four")


def test_a_window_keeps_the_last_rows_and_comes_back_from_its_file() -> None:
    rows = [
        Simulation(f"q{i}", "yes_no", "Q?", ("yes", "no"), "yes", student_answer="yes",
                   sim_x="no", sim_e="yes" if i % 2 else "no", sim_xe="yes")
        for i in range(30)
    ]  # fmt: skip
    windows = Windows(["a", "b"], size=20, alarm_below=0.5, clock=lambda: 7.0)
    for row in rows:
        windows.add("a", row)
    window = windows.windows["a"]
    assert (len(window.rows), window.num_seen) == (20, 30)
    expected = [rows[-20:], [r.sim_e for r in rows[-20:]]]
    assert [seen.sim_e for seen in window.rows] == expected[1]
    again = Window.load(20, window.dump())
    assert again == window and again.report() == window.report()
    assert Window.load(20, Window(20).dump()) == Window(20)
    live = windows.live()["versions"]
    # Both groups go from always wrong to always right.
    assert (live["a"]["las"], live["a"]["alarm"], live["b"]["las"]) == (1.0, False, None)


def test_live_las_is_stale_while_the_simulator_fails() -> None:
    windows = Windows(["a", "b"], size=20, alarm_below=None, clock=lambda: 7.0)
    windows.missed("a")
    live = windows.live()["versions"]
    assert (live["a"]["stale"], live["a"]["stale_since"], live["a"]["missed"]) == (True, 7.0, 1)
    assert not live["b"]["stale"]
    row = Simulation("q", "yes_no", "Q?", ("yes", "no"), "yes", sim_x="no", sim_e="no", sim_xe="no")
    windows.add("a", replace(row, student_answer="no"))
    assert not windows.live()["versions"]["a"]["stale"]
