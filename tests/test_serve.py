"""The whole application on Ray Serve: real models (tiny, random), the real openai client, real faults."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from cotray.config import RunConfig, parse_config
from cotray.data.store import Manifest, RunFolder
from cotray.models import model_path
from cotray.records import QAPair, StudentAnswer
from cotray.scoring.las import las
from cotray.scoring.predict import Student
from cotray.scoring.simulate import Simulator

pytestmark = pytest.mark.ray

KEY = "test-key"
PAIR = QAPair("q", "multiple_choice", "Where does rain come from?", ("clouds", "rivers", "snow"), "")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A run folder as `score` leaves it, with untrained models."""
    root = tmp_path_factory.mktemp("run")
    folder = RunFolder(str(root))
    for stage, model in (("student", "random:qwen2"), ("simulator", "random:t5")):
        shutil.copytree(model_path(model), root / stage)
        folder.begin(stage, settings={}, input="", overwrite=False)
        folder.finish(Manifest(stage, {}, "", 0, 0, 0))
    return parse_config(
        {
            "run_dir": str(root),
            "scoring": {"max_new_tokens": 16},
            "serving": {"port": free_port(), "live_share": 1.0, "live_window": 50, "max_queued": 32},
        }
    )


@pytest.fixture(scope="module")
def url(config: RunConfig) -> Iterator[str]:
    import ray
    from ray import serve

    from cotray.stages.cluster import cluster
    from cotray.stages.serve import deploy

    folder = tempfile.mkdtemp(prefix="ct-", dir="/tmp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COTRAY_API_KEYS", KEY)
        ray.init(
            address="local",
            num_cpus=8,
            object_store_memory=150_000_000,
            include_dashboard=False,
            log_to_driver=False,
            _temp_dir=folder,
        )
        try:
            with cluster(config.ray):
                deploy(config)
                yield f"http://127.0.0.1:{config.serving.port}"
        finally:
            serve.shutdown()
            ray.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def http(url: str) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def student(config: RunConfig) -> Student:
    """The same student in this process."""
    return Student(
        f"{config.run_dir}/student", config=config.scoring, tags="on", seed=config.seed, method=config.method
    )


def wait_for(condition: Callable[[], Any]) -> Any:
    for _ in range(600):
        if value := condition():
            return value
        time.sleep(0.1)
    raise AssertionError("not within a minute")


def test_the_openai_client_lists_completes_and_streams(url: str, student: Student) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY)
    assert [model.id for model in client.models.list()] == ["student"]
    asked: Any = {
        "model": "student",
        "messages": [{"role": "user", "content": PAIR.question}],
        "extra_body": {"cotray": {"choices": list(PAIR.choices)}},
    }
    whole = client.chat.completions.create(**asked)
    (expected,) = student.respond([PAIR], [None])
    message = whole.choices[0].message
    assert message.content == expected.text
    apart = message.model_extra["cotray"]  # type: ignore[index]
    assert (apart["rationale"], apart["answer"]) == (expected.rationale, expected.answer)
    assert apart["answer_logprobs"] == pytest.approx(expected.choice_logprobs, abs=1e-4)
    assert whole.usage and whole.usage.completion_tokens == expected.num_tokens

    chunks = list(client.chat.completions.create(**asked, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == expected.text
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert sum(bool(chunk.choices[0].delta.content) for chunk in chunks) > 1
    plain = client.completions.create(model="student", prompt="Is ice cold?")
    assert plain.choices[0].text


def test_a_wrong_key_is_an_authentication_error_of_the_client(url: str) -> None:
    with pytest.raises(openai.AuthenticationError, match="wrong or missing API key"):
        openai.OpenAI(base_url=f"{url}/v1", api_key="wrong").models.list()


def test_requests_at_once_are_answered_as_each_alone(http: httpx.Client, student: Student) -> None:
    """They share batches with others of all lengths."""
    pairs = [
        QAPair(f"q{i}", "yes_no", f"Is {'very ' * i}cold ice cold?", ("yes", "no"), "") for i in range(12)
    ]
    bodies = [{"question": pair.question, "task": "yes_no"} for pair in pairs]
    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(lambda body: http.post("/v1/answer", json=body).json(), bodies))
    for pair, answer in zip(pairs, answers, strict=True):
        (expected,) = student.respond([pair], [None])
        assert (answer["rationale"], answer["answer"]) == (expected.rationale, expected.answer)
        assert sum(answer["probabilities"]) == pytest.approx(1)


def test_an_edited_rationale_is_answered_as_the_student_would(http: httpx.Client, student: Student) -> None:
    (expected,) = student.respond([PAIR], ["Snow falls from above."])
    body = {"question": PAIR.question, "choices": PAIR.choices, "rationale": "Snow falls from above."}
    answer = http.post("/v1/answer", json=body).json()
    assert (answer["answer"], answer["wrote_answer"]) == (expected.answer, False)


def test_las_of_answers_made_elsewhere_is_that_of_the_offline_functions(
    config: RunConfig, http: httpx.Client
) -> None:
    rows = [
        StudentAnswer(f"r{i}", "multiple_choice", f"Which is {i}?", ("one", "two", "three"), "",
                      rationale=f"It is number {i % 3}.", student_answer=("one", "two", "three")[i % 3])
        for i in range(40)
    ]  # fmt: skip
    simulated = Simulator(f"{config.run_dir}/simulator", mode="trained").simulate(rows)
    expected = las(
        [row.student_answer for row in simulated],
        [row.sim_x for row in simulated],
        [row.sim_e for row in simulated],
        [row.sim_xe for row in simulated],
        num_resamples=config.scoring.num_resamples,
        seed=config.seed,
    )
    body = [
        {
            "id": row.id,
            "question": row.question,
            "choices": row.choices,
            "rationale": row.rationale,
            "answer": row.student_answer,
        }
        for row in rows
    ]
    response = http.post("/v1/las", json={"rows": body, "num_resamples": config.scoring.num_resamples})
    lines = [json.loads(line) for line in response.text.splitlines()]
    assert [line["row"]["id"] for line in lines[:-1]] == [row.id for row in rows]
    for key in ("las", "sim_gain", "leak_rate"):
        value = getattr(expected, key)
        shown = lines[-1]["las"].get(key)
        assert shown is value is None or shown == pytest.approx(value, abs=1e-9)


def test_live_answers_reach_the_window_without_their_text(config: RunConfig, http: httpx.Client) -> None:
    before = http.get("/v1/las/live").json()["versions"]["student"]["seen"]
    for _ in range(3):
        assert http.post("/v1/answer", json={"question": "Is ice cold?", "task": "yes_no"}).status_code == 200

    def live() -> dict[str, Any]:
        return http.get("/v1/las/live").json()

    wait_for(lambda: live()["versions"]["student"]["seen"] >= before + 3)
    assert live()["versions"]["student"]["rows"] > 0 and not live()["stale"]
    saved = Path(config.run_dir) / "live" / "student.jsonl"
    wait_for(saved.is_file)
    assert "ice" not in saved.read_text()


def replicas(name: str) -> list[int]:
    """Processes of a deployment's replicas."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                title = (process / "cmdline").read_bytes()
            except OSError:
                continue
            if title.startswith(f"ray::ServeReplica:cotray:{name}".encode()):
                found.append(int(process.name))
    return found


def test_a_killed_student_costs_at_most_the_requests_it_had(http: httpx.Client) -> None:
    """The client's one retry succeeds."""
    (pid,) = replicas("student-student")
    body = {"question": "Is ice cold?", "task": "yes_no"}
    stop = threading.Event()

    def ask() -> list[bool]:
        outcomes = []
        while not stop.is_set():
            codes = [http.post("/v1/answer", json=body).status_code]
            if codes[0] != 200:
                wait_for(lambda: len(replicas("student-student")) == 1)
                codes.append(http.post("/v1/answer", json=body).status_code)
            outcomes.append(codes[-1] == 200)
        return outcomes

    with ThreadPoolExecutor(4) as threads:
        asking = [threads.submit(ask) for _ in range(4)]
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: replicas("student-student") not in ([], [pid]))
        stop.set()
        assert all(outcome for each in asking for outcome in each.result())


def test_the_service_is_ready_when_all_models_are(http: httpx.Client) -> None:
    wait_for(lambda: http.get("/readyz").status_code == 200)
    assert set(http.get("/readyz").json()) == {"student-student", "simulator", "las-monitor", "ingress"}
