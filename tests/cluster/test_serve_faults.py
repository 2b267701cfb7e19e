"""What goes wrong under a served student, and what its clients see of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import KEY, replicas, run_folder, served, serving_config, wait_for

from cotray.config import RunConfig
from cotray.errors import ConfigError
from cotray.prompts.student import trained_prompt
from cotray.records import QAPair
from cotray.scoring.student import Student

pytestmark = pytest.mark.ray

MAX_QUEUED = 12
HEADERS = {"Authorization": f"Bearer {KEY}"}
BODY = {"question": "Is ice cold?", "task": "yes_no"}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    folder = run_folder(tmp_path_factory.mktemp("run"), student="random:qwen2")
    return serving_config(folder, max_queued=MAX_QUEUED, timeout_s=20, student={"max_batch_size": 4})


@pytest.fixture(scope="module")
def new_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of the student that takes over."""
    return run_folder(tmp_path_factory.mktemp("run"), student="random:llama")


@pytest.fixture(scope="module")
def url(config: RunConfig) -> Iterator[str]:
    with served(config) as url:
        yield url


@pytest.fixture(scope="module")
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, headers=HEADERS, timeout=60) as client:
        yield client


def ask(http: httpx.Client) -> int:
    return http.post("/v1/answer", json=BODY).status_code


def answered(http: httpx.Client, during: Callable[[], Any], *, retries: int, threads: int = 4) -> list[bool]:
    """Whether each question asked while `during` works was answered, after so many retries."""
    is_over = threading.Event()

    def keep_asking() -> list[bool]:
        outcomes = []
        while not is_over.is_set():
            tries = (ask(http) == 200 for _ in range(1 + retries))
            outcomes.append(any(tries))
        return outcomes

    with ThreadPoolExecutor(threads) as pool:
        asking = [pool.submit(keep_asking) for _ in range(threads)]
        try:
            during()
        finally:
            is_over.set()
        return [outcome for each in asking for outcome in each.result()]


def live(http: httpx.Client) -> dict[str, Any]:
    return http.get("/v1/las/live").json()["versions"]["student"]


def test_a_killed_student_costs_no_more_than_one_retry(http: httpx.Client) -> None:
    (pid,) = replicas("student-student")

    def kill() -> None:
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: replicas("student-student") not in ([], [pid]))

    outcomes = answered(http, kill, retries=1)
    assert outcomes and all(outcomes)


def test_an_overload_is_refused_at_once_with_a_time_to_come_back(url: str, http: httpx.Client) -> None:
    def one(_: int) -> httpx.Response:
        return httpx.post(f"{url}/v1/answer", json=BODY, headers=HEADERS, timeout=60)

    with ThreadPoolExecutor(60) as pool:
        responses = list(pool.map(one, range(180)))
    counts = Counter(response.status_code for response in responses)
    assert set(counts) == {200, 503} and counts[200] >= MAX_QUEUED
    refused = [response for response in responses if response.status_code == 503]
    assert all(int(response.headers["retry-after"]) >= 1 for response in refused)
    assert {response.json()["error"]["code"] for response in refused} == {"overloaded"}
    assert ask(http) == 200


def test_clients_that_do_not_read_or_do_not_send_hold_up_nobody(url: str, http: httpx.Client) -> None:
    """More of them than there are places in the queue."""
    port = int(url.rpartition(":")[2])
    body = json.dumps({"model": "student", "prompt": "Is ice cold?", "stream": True}).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(2 * MAX_QUEUED)]
    try:
        for number, client in enumerate(clients):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            client.sendall(head + (body if number % 2 else body[:9]))
        wait_for(lambda: ask(http) == 200)
        assert [ask(http) for _ in range(5)] == [200] * 5
    finally:
        for client in clients:
            client.close()


@pytest.mark.parametrize("is_chunked", [False, True], ids=["declared", "chunked"])
def test_ten_megabytes_are_refused(url: str, http: httpx.Client, is_chunked: bool) -> None:
    body = json.dumps({"question": "x" * 10_000_000}).encode()
    pieces = iter([body[start : start + 100_000] for start in range(0, len(body), 100_000)])
    response = http.post("/v1/answer", content=pieces if is_chunked else body)
    assert (response.status_code, response.json()["error"]["code"]) == (413, "too_large")
    assert ask(http) == 200


def test_a_new_student_takes_over_under_load_without_a_failed_request(
    config: RunConfig, http: httpx.Client, new_folder: str
) -> None:
    from cotray.deployments.application import deploy

    new = config.model_copy(update={"run_dir": new_folder})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COTRAY_API_KEYS", KEY)
        outcomes = answered(http, lambda: deploy(new), retries=0)
    assert len(outcomes) > 10 and all(outcomes)
    student = Student(
        f"{new_folder}/student",
        config=config.scoring,
        prompt=trained_prompt("on"),
        seed=0,
        method=config.method,
    )
    (expected,) = student.respond([QAPair("q", "yes_no", BODY["question"], ("yes", "no"), "")], [None])
    wait_for(lambda: http.post("/v1/answer", json=BODY).json()["rationale"] == expected.rationale)


def test_serve_that_listens_elsewhere_is_no_place_for_the_application(
    config: RunConfig, http: httpx.Client
) -> None:
    """Else `api_keys: open` on loopback would be answered on all interfaces."""
    from cotray.deployments.application import deploy

    serving = config.serving.model_copy(update={"host": "localhost", "port": config.serving.port + 1})
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(ConfigError, match="Serve runs on this cluster"),
    ):
        patch.setenv("COTRAY_API_KEYS", KEY)
        deploy(config.model_copy(update={"serving": serving}))
    assert ask(http) == 200


def test_connections_without_a_key_hold_no_place(url: str, http: httpx.Client) -> None:
    """More of them than the ingress takes requests."""
    port = int(url.rpartition(":")[2])
    head = (
        "POST /v1/answer HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
    )
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(11 * MAX_QUEUED)]
    try:
        for client in clients:
            client.sendall(head.encode())
        assert http.get("/healthz", timeout=5).status_code == 200
        assert ask(http) == 200
        for client in clients:
            client.settimeout(20)
            assert client.recv(12) == b"HTTP/1.1 401"
    finally:
        for client in clients:
            client.close()


def test_an_id_of_other_characters_than_ours_is_replaced(http: httpx.Client) -> None:
    response = http.post("/v1/answer", json=BODY, headers=[(b"x-request-id", "é".encode())])
    assert response.status_code == 200 and len(response.json()["id"]) == 32


def test_windows_survive_a_killed_monitor(http: httpx.Client, new_folder: str) -> None:
    seen = live(http)["seen"]
    assert [ask(http) for _ in range(3)] == [200] * 3
    wait_for(lambda: live(http)["seen"] >= seen + 3)
    seen, saved = live(http)["seen"], Path(new_folder) / "live" / "student.jsonl"
    wait_for(lambda: saved.is_file() and json.loads(saved.read_text().splitlines()[0])["num_seen"] >= seen)
    (pid,) = replicas("las-monitor")
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: replicas("las-monitor") not in ([], [pid]))
    assert live(http)["seen"] >= seen


def test_answers_do_not_need_the_simulator_and_live_las_says_that_it_is_stale(
    http: httpx.Client, new_folder: str
) -> None:
    wait_for(lambda: not live(http)["stale"])
    shutil.rmtree(f"{new_folder}/simulator")  # so that Serve cannot start another
    for pid in replicas("simulator-student"):
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: ask(http) == 200 and live(http)["stale"])
    assert [ask(http) for _ in range(3)] == [200] * 3
    assert live(http)["missed"] > 0
    ready = http.get("/readyz")
    assert (ready.status_code, ready.json()["simulator"]) == (200, {"student": False})
    assert http.post("/v1/simulate", json=BODY | {"rationale": "Ice.", "answer": "yes"}).status_code in (
        503,
        504,
    )


def test_the_application_ends_without_that_of_others(config: RunConfig, url: str, http: httpx.Client) -> None:
    from ray import serve

    from cotray.deployments.application import shutdown

    @serve.deployment
    class Other:
        def __call__(self) -> str:
            return "here"

    serve.run(Other.bind(), name="other", route_prefix="/other")
    shutdown(stop_serve=True)
    assert http.get("/healthz").status_code == 404
    assert httpx.get(f"{url}/other").text == "here"
