"""The whole application on Ray Serve: real models (tiny, random), the real openai client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from serving import KEY, run_folder, served, serving_config, wait_for

from cotray.config import RunConfig
from cotray.config.probing import ProbingConfig
from cotray.inference.decoding import Decoding
from cotray.probing.figures import figures
from cotray.probing.probe import probe
from cotray.probing.prober import Prober
from cotray.prompts.student import trained_prompt
from cotray.records import QAPair, Rationale, StudentAnswer
from cotray.scoring.las import las
from cotray.scoring.served_student import ServedStudent
from cotray.scoring.simulator import Simulator
from cotray.scoring.student import Student

pytestmark = pytest.mark.ray

PAIR = QAPair("q", "multiple_choice", "Where does rain come from?", ("clouds", "rivers", "snow"), "")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """Two versions: `student` decoder-only, `paper` encoder-decoder and never chosen by chance."""
    first = run_folder(tmp_path_factory.mktemp("run"), student="random:qwen2")
    second = run_folder(tmp_path_factory.mktemp("run"), student="random:t5", simulator="random:qwen2")
    versions = [{"name": "student", "run_dir": first}, {"name": "paper", "run_dir": second, "share": 1e-12}]
    return serving_config(first, students=versions)


@pytest.fixture(scope="module")
def url(config: RunConfig) -> Iterator[str]:
    with served(config) as url:
        yield url


@pytest.fixture(scope="module")
def http(url: str) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def student(config: RunConfig) -> Student:
    """The same student in this process."""
    return Student(
        f"{config.run_dir}/student",
        config=config.scoring,
        prompt=trained_prompt("on"),
        seed=config.seed,
        method=config.method,
    )


def paper_of(config: RunConfig) -> Student:
    """The other version in this process."""
    folder, prompt = config.serving.students[1].run_dir, trained_prompt("on")
    return Student(
        f"{folder}/student", config=config.scoring, prompt=prompt, seed=config.seed, method=config.method
    )


def test_the_openai_client_lists_completes_and_streams(url: str, student: Student) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY)
    assert [model.id for model in client.models.list()] == ["student", "paper"]
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


@pytest.mark.parametrize("name", ["student", "paper"])
def test_a_served_student_is_probed_as_the_one_at_hand(
    config: RunConfig, url: str, student: Student, name: str
) -> None:
    at_hand = student if name == "student" else paper_of(config)
    rows = [
        Rationale(
            f"q{number}", "multiple_choice", f"{PAIR.question} {number}?", PAIR.choices, "clouds", "test",
            target_answer="clouds", rationale="Clouds are wet. Rain falls from them. It is grey then.",
        )
        for number in range(4)
    ]  # fmt: skip
    measures = ("early_answering", "filler", "mistake", "following", "hidden_influence")
    prober = Prober.of(ProbingConfig(measures=measures, cues=("suggestion",)), seed=0, world=None)
    expected = probe(at_hand, prober, rows)
    found = probe(ServedStudent(url, model=name, key=KEY), prober, rows)
    assert [row.to_row() for row in found] == [row.to_row() for row in expected]
    assert figures(found, num_resamples=100, seed=0) == figures(expected, num_resamples=100, seed=0)


@pytest.mark.parametrize(
    ("given", "decoding"),
    [
        ({"max_tokens": 3}, Decoding(max_tokens=3)),
        ({"max_completion_tokens": 5}, Decoding(max_tokens=5)),
        ({"stop": ["\ufffd", "a"]}, Decoding(stop=("\ufffd", "a"))),
        ({"temperature": 0.7, "seed": 3}, Decoding(temperature=0.7, seed=3)),
        ({"top_p": 0.5}, Decoding(temperature=1.0, top_p=0.5)),
        ({"logprobs": True, "top_logprobs": 2}, Decoding(num_logprobs=2)),
    ],
)
@pytest.mark.parametrize("model", ["student", "paper"])
def test_a_parameter_of_the_client_is_what_the_student_makes_of_it(
    config: RunConfig, url: str, student: Student, model: str, given: dict[str, Any], decoding: Decoding
) -> None:
    """Whole and streamed, of decoder-only and encoder-decoder students; several requests share batches."""
    student = student if model == "student" else paper_of(config)
    (expected,) = student.respond([PAIR], [None], [decoding])
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY)
    question = f"{PAIR.question} (A) clouds (B) rivers (C) snow"
    asked: Any = {"model": model, "messages": [{"role": "user", "content": question}], **given}
    with ThreadPoolExecutor(3) as threads:
        streaming = threads.submit(lambda: list(client.chat.completions.create(**asked, stream=True)))
        others = threads.submit(client.completions.create, model=model, prompt="Is ice cold?", temperature=1)
        whole = client.chat.completions.create(**asked)
        chunks = streaming.result()
        assert others.result().choices
    choice, last = whole.choices[0], chunks[-1].choices[0]
    assert choice.message.content == expected.text
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected.text
    assert choice.finish_reason == last.finish_reason == expected.finish_reason
    assert whole.usage and whole.usage.completion_tokens == expected.num_tokens
    apart = (choice.message.model_extra or {})["cotray"]
    streamed = (last.delta.model_extra or {})["cotray"]
    # Which requests share a batch moves the last digits.
    whole_logprobs, its_logprobs = apart.pop("answer_logprobs"), streamed.pop("answer_logprobs")
    assert whole_logprobs == pytest.approx(its_logprobs, abs=1e-4) and apart == streamed
    assert (apart["added"], apart["wrote_answer"]) == (expected.added, expected.wrote_answer)
    for logprobs in (choice.logprobs, last.logprobs):
        tokens = logprobs.content if logprobs and logprobs.content else []
        assert [token.token for token in tokens] == [token.text for token in expected.tokens]
        assert [token.logprob for token in tokens] == pytest.approx(
            [token.logprob for token in expected.tokens], abs=1e-4
        )


def test_the_openai_client_asks_for_several_answers_and_several_prompts(url: str, student: Student) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY)
    prompts = ["Is ice cold?", "What is rain?"]
    decodings = [Decoding(temperature=1.0, seed=9, sample=sample) for sample in range(3)]
    pairs = [QAPair("q", "open", prompt, (), "") for prompt in prompts for _ in decodings]
    expected = student.respond(pairs, [None] * 6, decodings * 2)
    asked: Any = {"model": "student", "prompt": prompts, "n": 3, "temperature": 1, "seed": 9}
    whole = client.completions.create(**asked)
    assert [choice.text for choice in whole.choices] == [reply.text for reply in expected]
    assert whole.usage and whole.usage.completion_tokens == sum(reply.num_tokens for reply in expected)
    assert whole.usage.prompt_tokens == sum(reply.num_prompt_tokens for reply in expected[::3])
    texts = [""] * 6
    *chunks, counted = client.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    for chunk in chunks:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [reply.text for reply in expected] and counted.usage == whole.usage


def test_what_no_student_can_do_is_refused_by_its_name(url: str) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY)
    asked: Any = {"model": "student", "messages": [{"role": "user", "content": PAIR.question}]}
    with pytest.raises(openai.BadRequestError, match="response_format: a student writes"):
        client.chat.completions.create(**asked, response_format={"type": "json_object"})
    assert client.models.retrieve("paper").id == "paper"


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


def test_two_versions_answer_side_by_side_each_with_its_own_simulator(
    config: RunConfig, http: httpx.Client
) -> None:
    """The second is an encoder-decoder; without a name the first is drawn (its share is nearly all)."""
    (expected,) = paper_of(config).respond([PAIR], [None])
    question = {"question": PAIR.question, "choices": PAIR.choices}
    answer = http.post("/v1/answer", json=question | {"model": "paper"}).json()
    assert (answer["model"], answer["rationale"], answer["answer"]) == (
        "paper",
        expected.rationale,
        expected.answer,
    )
    assert http.post("/v1/answer", json=question).json()["model"] == "student"
    row = StudentAnswer.from_row(PAIR.to_row() | {"rationale": "Rain.", "student_answer": "snow"})
    says = {}
    for version in config.serving.students:
        (simulated,) = Simulator(f"{version.run_dir}/simulator", mode="trained").simulate([row])
        body = question | {"rationale": "Rain.", "answer": "snow", "model": version.name}
        said = http.post("/v1/simulate", json=body).json()
        says[version.name] = (said["sim_x"], said["sim_e"], said["sim_xe"])
        assert says[version.name] == (simulated.sim_x, simulated.sim_e, simulated.sim_xe)
    assert says["student"] != says["paper"]


def test_live_answers_reach_the_window_without_their_text(config: RunConfig, http: httpx.Client) -> None:
    before = http.get("/v1/las/live").json()["versions"]["student"]["seen"]
    for _ in range(3):
        assert http.post("/v1/answer", json={"question": "Is ice cold?", "task": "yes_no"}).status_code == 200

    def live() -> dict[str, Any]:
        return http.get("/v1/las/live").json()

    wait_for(lambda: live()["versions"]["student"]["seen"] >= before + 3)
    assert live()["versions"]["student"]["rows"] > 0 and not live()["versions"]["student"]["stale"]
    saved = Path(config.run_dir) / "live" / "student.jsonl"
    wait_for(saved.is_file)
    assert "ice" not in saved.read_text()


def test_the_service_is_ready_when_all_models_are(http: httpx.Client) -> None:
    ready = http.get("/readyz")
    loaded = {"student": True, "paper": True}
    assert (ready.status_code, ready.json()) == (200, {"student": loaded, "simulator": loaded})


def test_every_response_has_one_request_id_which_a_client_may_choose(http: httpx.Client) -> None:
    ids = http.get("/healthz").headers.get_list("x-request-id")
    assert len(ids) == 1 and ids[0]
    chosen = http.get("/healthz", headers={"x-request-id": "mine-7"}).headers.get_list("x-request-id")
    assert chosen == ["mine-7"]
