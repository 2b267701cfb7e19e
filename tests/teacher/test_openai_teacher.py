"""A teacher behind a real HTTP server, through a real client: what is asked, paid, repeated and given up."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.responses import JSONResponse, Response, StreamingResponse
from openai_server import Answering, completion, continuation, openai_server, refusal
from transformers import AutoModelForCausalLM, AutoTokenizer
from vllm_server import vllm_server

from cotray.config import TeacherConfig
from cotray.errors import ConfigError, Halted
from cotray.inference import openai_endpoint
from cotray.inference.cost_cap import CostCap
from cotray.inference.endpoint_model import EndpointModel
from cotray.inference.openai_endpoint import Endpoint
from cotray.models.locations import model_path
from cotray.prompts.teacher import render_request
from cotray.records import Rationale, TeacherRequest
from cotray.storage.folder import Folder
from cotray.storage.paid_replies import PaidReplies, replies_of
from cotray.teacher.openai_teacher import OpenAITeacher
from cotray.teacher.transformers_teacher import TransformersTeacher

SMOLLM2 = "embedded:smollm2-135m-instruct"


def requests(count: int) -> list[TeacherRequest]:
    return [
        TeacherRequest(str(n), "yes_no", f"Is ice {n} cold?", ("yes", "no"), "yes", target_answer="yes")
        for n in range(count)
    ]


def config(url: str, **keys: Any) -> TeacherConfig:
    keys = {"model": "m", "prompt": "chat", "num_demonstrations": 1} | keys
    return TeacherConfig.model_validate({"engine": "openai", "endpoint": {"base_url": url}} | keys)


@contextmanager
def teacher(
    url: str, run_dir: Path, *, concurrency: int = 1, purse: CostCap | None = None, **keys: Any
) -> Iterator[OpenAITeacher]:
    model = EndpointModel(
        Endpoint(url, "m", "sesame", timeout_s=20),
        purse or CostCap(),
        PaidReplies(str(run_dir), account=str(run_dir)),
        stage="rationales",
        concurrency=concurrency,
    )
    try:
        yield OpenAITeacher(config(url, **keys), model)
    finally:
        model.close()


def generate(answering: Answering, run_dir: Path, count: int = 1, **keys: Any) -> list[Rationale]:
    with openai_server(answering) as server, teacher(server.base_url, run_dir, **keys) as asked:
        return asked.generate(requests(count))


def test_greedy_rationales_over_an_api_are_those_of_the_same_model_at_hand(tmp_path: Path) -> None:
    """Behind the API is code of transformers alone: greedy search, cut at the first of `stop`."""
    path = model_path("random:llama")
    model: Any = AutoModelForCausalLM.from_pretrained(path)
    tokenizer = AutoTokenizer.from_pretrained(path)

    def answering(body: dict[str, Any], _: int) -> Response:
        ids = tokenizer(body["prompt"], return_tensors="pt").input_ids
        made = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=body["max_tokens"]
        )
        text = tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)
        return continuation(min((text.partition(stop)[0] for stop in body["stop"]), key=len))

    keys: dict[str, Any] = {"prompt": "completion", "decoding": {"max_new_tokens": 24}}
    over_api = generate(answering, tmp_path, 12, **keys)
    at_hand = TransformersTeacher(
        TeacherConfig.model_validate(
            {"model": "random:llama", "dtype": "float32", "num_demonstrations": 1} | keys
        ),
        method="greedy",
    ).generate(requests(12))
    assert [row.rationale for row in over_api] == [row.rationale for row in at_hand]
    assert len({row.rationale for row in at_hand}) > 6


@pytest.mark.long
@pytest.mark.vllm
def test_rationales_of_a_vllm_server_are_those_of_the_same_model_at_hand(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"prompt": "completion", "decoding": {"max_new_tokens": 24}}
    at_hand = TransformersTeacher(
        TeacherConfig.model_validate({"model": SMOLLM2, "dtype": "float32", "num_demonstrations": 1} | keys),
        method="greedy",
    ).generate(requests(8))
    with vllm_server(model_path(SMOLLM2)) as url:
        with teacher(url, tmp_path / "plain", concurrency=4, **keys) as asked:
            over_api = asked.generate(requests(8))
        chat = {"prompt": "chat", "decoding": {"max_new_tokens": 24}}
        with teacher(url, tmp_path / "chat", concurrency=4, **chat) as asked:
            chatted = asked.generate(requests(8))
    assert [row.rationale for row in over_api] == [row.rationale for row in at_hand]
    assert all(row.rationale for row in at_hand)
    assert all(row.rationale and 0 < row.num_tokens <= 24 and not row.error for row in chatted)


def test_a_completion_forces_the_answer_exactly_as_engines_at_hand_do(tmp_path: Path) -> None:
    asked = list[dict[str, Any]]()

    def answering(body: dict[str, Any], _: int) -> Response:
        asked.append(body)
        return continuation(" It is frozen water.")

    [row] = generate(answering, tmp_path, prompt="completion")
    assert row.rationale == "It is frozen water." and row.teacher == "m" and row.num_tokens == 10
    expected = render_request(requests(1)[0], num_demonstrations=1).grounded
    assert asked == [{"model": "m", "prompt": expected, "max_tokens": 128, "temperature": 0, "stop": ["\n"]}]


def test_a_chat_is_told_the_answer_in_the_same_words_whether_it_is_right_or_not(tmp_path: Path) -> None:
    def answering(body: dict[str, Any], _: int) -> Response:
        said = body["messages"][-1]["content"]
        answer = "yes" if "The answer is yes." in said else "no"
        return completion(f"The answer is {answer}.\n\nIce melts, so the answer is {answer}.\n\nIndeed.")

    right = requests(1)[0]
    wrong = TeacherRequest.from_row(right.to_row() | {"kind": "counterfactual", "target_answer": "no"})
    with openai_server(answering) as server:
        with teacher(server.base_url, tmp_path) as asked:
            rows = asked.generate([right, wrong])
        first, second = (body["messages"][-1]["content"] for body in server.bodies)
    assert [row.rationale for row in rows] == ["Ice melts."] * 2
    assert first.replace("answer is yes", "answer is no") == second and first != second
    assert [turn["role"] for turn in server.bodies[0]["messages"]] == ["user", "assistant", "user"]


def test_a_server_that_lets_a_turn_be_begun_is_given_the_answer_as_its_beginning(tmp_path: Path) -> None:
    with openai_server(lambda *_: completion("Ice melts.")) as server:
        keys: dict[str, Any] = {"engine_args": {"continue_final_message": True}}
        with teacher(server.base_url, tmp_path, template_args={"enable_thinking": False}, **keys) as asked:
            asked.generate(requests(1))
        body = server.bodies[0]
    assert body["messages"][-1] == {"role": "assistant", "content": "The answer is yes."}
    assert body["messages"][-3]["content"].startswith("The answer is ")
    assert body["continue_final_message"] is True and body["add_generation_prompt"] is False
    assert body["chat_template_kwargs"] == {"enable_thinking": False}


def test_refused_rows_fail_alone_with_the_servers_words(tmp_path: Path) -> None:
    def answering(body: dict[str, Any], _: int) -> Response:
        is_bad = "ice 1 cold" in body["messages"][-1]["content"]
        message = "content_filter: the temperature of this prompt is not allowed"
        return refusal(400, message=message) if is_bad else completion("It melts.")

    rows = generate(answering, tmp_path, 3)
    assert [row.rationale for row in rows] == ["It melts.", "", "It melts."]
    assert "400" in rows[1].error and "content_filter" in rows[1].error


@pytest.mark.parametrize(("status", "words"), [(401, "wrong key"), (404, "no such model")])
def test_a_refused_key_or_model_ends_at_once_with_the_servers_words(
    tmp_path: Path, status: int, words: str
) -> None:
    with openai_server(lambda *_: refusal(status, message=words)) as server:
        with teacher(server.base_url, tmp_path) as asked, pytest.raises(ConfigError, match=words):
            asked.generate(requests(5))
        assert len(server.bodies) == 1


def test_busy_and_broken_replies_are_repeated_when_the_server_says(tmp_path: Path) -> None:
    def answering(_: dict[str, Any], n: int) -> Response:
        return [refusal(429), refusal(503), refusal(500)][n] if n < 3 else completion("It melts.")

    with openai_server(answering) as server, teacher(server.base_url, tmp_path) as asked:
        rows = asked.generate(requests(2))
        assert len(server.bodies) == 5 and set(server.keys) == {"Bearer sesame"}
    assert [row.rationale for row in rows] == ["It melts."] * 2


def test_a_server_that_stays_broken_ends_the_work_and_says_what_is_done(tmp_path: Path) -> None:
    def answering(_: dict[str, Any], n: int) -> Response:
        return completion("It melts.") if n < 2 else refusal(500, message="on fire")

    with openai_server(answering) as server, teacher(server.base_url, tmp_path) as asked:
        with pytest.raises(Halted, match=r"on fire.*2 requests of this run are answered.*same command"):
            asked.generate(requests(20))
        assert len(server.bodies) == 2 + 3 * 6


def test_a_prompt_that_the_server_always_fails_on_is_given_up_alone(tmp_path: Path) -> None:
    def answering(body: dict[str, Any], _: int) -> Response:
        is_bad = "ice 1 cold" in body["messages"][-1]["content"]
        return refusal(500, message="cannot") if is_bad else completion("It melts.")

    rows = generate(answering, tmp_path, 6)
    assert [bool(row.error) for row in rows] == [False, True, False, False, False, False]
    assert "failed 6 times, the last with:" in rows[1].error and "cannot" in rows[1].error


def test_a_reply_that_is_cut_off_is_repeated_and_counts_as_paid(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(openai_endpoint, "FIRST_WAIT_S", 0.0)

    def cut() -> Iterator[str]:
        yield '{"id": "c", "choices": ['

    def answering(_: dict[str, Any], n: int) -> Response:
        whole = {"content-length": "1000", "content-type": "application/json"}
        return StreamingResponse(cut(), headers=whole) if n == 0 else completion("It melts.")

    [row] = generate(answering, tmp_path)
    assert row.rationale == "It melts."
    errors = [reply.error for reply in replies_of(Folder(str(tmp_path)))]
    assert len(errors) == 2 and errors.count("") == 1


def test_nobody_at_the_address_is_said_with_the_address(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(openai_endpoint, "FIRST_WAIT_S", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with teacher(url, tmp_path) as asked, pytest.raises(Halted, match=url):
        asked.generate(requests(5))
    assert list(replies_of(Folder(str(tmp_path)))) == []


def test_a_page_in_place_of_a_reply_asks_whether_the_url_is_right(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(openai_endpoint, "FIRST_WAIT_S", 0.0)
    page = Response("<html>", media_type="text/html")
    with pytest.raises(Halted, match="is the URL right"):
        generate(lambda *_: page, tmp_path, 5)


def test_what_was_answered_is_never_asked_again_and_what_failed_is(tmp_path: Path) -> None:
    def answering(body: dict[str, Any], n: int) -> Response:
        is_bad = "ice 1 cold" in body["messages"][-1]["content"] and n < 5
        return refusal(400) if is_bad else completion(f"Völlig klar\u2028{n} 🧊.")

    with openai_server(answering) as server:
        with teacher(server.base_url, tmp_path) as asked:
            first = asked.generate(requests(3))
        with teacher(server.base_url, tmp_path, concurrency=4) as asked:
            second = asked.generate(requests(6))
        assert len(server.bodies) == 3 + 4
        assert [row.rationale for row in second[::2][:2]] == [row.rationale for row in first[::2]]
    assert first[0].rationale == "Völlig klar\u20280 🧊." and first[1].error


def test_the_cost_cap_counts_what_is_on_disk_and_a_higher_one_goes_on(tmp_path: Path) -> None:
    """A reply costs 1 + 1; the most that one can cost is reserved, and free again when it came."""
    reply = completion("It melts.", tokens=(100, 10))
    prices = {"price_in": 1e4, "price_out": 1e5}
    with openai_server(lambda *_: reply) as server:
        with teacher(server.base_url, tmp_path) as asked:
            most = CostCap(**prices).cost(*asked._prompt(requests(1)[0], 0).most_tokens)
        cap = CostCap(**prices, limit=most + 6.5)
        said = "4 requests of this run are answered, for 8 in all"
        paying = teacher(server.base_url, tmp_path, purse=cap, concurrency=8)
        with paying as asked, pytest.raises(Halted, match=said):
            asked.generate(requests(10))
        assert len(server.bodies) == 4
        again = CostCap(**prices, limit=most + 6.5)
        with teacher(server.base_url, tmp_path, purse=again) as asked, pytest.raises(Halted):
            asked.generate(requests(10))
        assert len(server.bodies) == 4 and again.spent == 8
        with teacher(server.base_url, tmp_path, purse=CostCap(**prices, limit=1000)) as asked:
            assert [row.error for row in asked.generate(requests(10))] == [""] * 10
        assert len(server.bodies) == 10


def test_a_model_that_thinks_is_asked_without_what_it_refuses(tmp_path: Path) -> None:
    def answering(body: dict[str, Any], _: int) -> Response:
        for name in ("max_tokens", "temperature"):
            if name in body:
                return refusal(400, message=f"Unsupported parameter: '{name}'.", param=name)
        is_first = "ice 0 cold" in body["messages"][-1]["content"]
        message = {"role": "assistant", "content": "" if is_first else "It melts.", "reasoning_content": "Hm"}
        choice = {"index": 0, "message": message, "finish_reason": "length" if is_first else "stop"}
        head = {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}
        return JSONResponse(head | {"choices": [choice]})

    with openai_server(answering) as server, teacher(server.base_url, tmp_path) as asked:
        first, second = asked.generate(requests(2))
        assert "raise teacher.decoding.max_new_tokens" in first.error
        assert second.rationale == "It melts."
        assert server.bodies[-1].keys() == {"model", "messages", "max_completion_tokens"}


def test_a_reply_in_a_form_of_its_own_is_repeated_and_its_error_is_told(tmp_path: Path, monkeypatch) -> None:
    """Choices that are missing, with an error beside them; a text in parts; half a character; no tokens."""
    monkeypatch.setattr(openai_endpoint, "FIRST_WAIT_S", 0.0)

    def answering(_: dict[str, Any], n: int) -> Response:
        if n < 3:
            return JSONResponse({"choices": None, "error": {"message": "out of memory"}})
        content: Any = [{"type": "text", "text": "It"}] if n == 3 else "It \ud83d melts."
        choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
        usage = {"prompt_tokens": None, "completion_tokens": None}
        body = {"id": "c", "object": "chat.completion", "choices": [choice], "usage": usage}
        return Response(json.dumps(body), media_type="application/json")

    with openai_server(answering) as server, teacher(server.base_url, tmp_path) as asked:
        [row] = asked.generate(requests(1))
        most = asked._prompt(requests(1)[0], 0).most_tokens
    assert row.rationale == "It ? melts."
    lost = [reply for reply in replies_of(Folder(str(tmp_path))) if reply.error]
    assert len(lost) == 4 and "out of memory" in lost[0].error
    assert {(reply.tokens_in, reply.tokens_out) for reply in replies_of(Folder(str(tmp_path)))} == {most}


def test_a_prompt_that_is_too_long_does_not_change_how_others_are_asked(tmp_path: Path) -> None:
    message = "'max_tokens' is too large: 128. This model's maximum context length is 64 tokens"

    def answering(body: dict[str, Any], n: int) -> Response:
        return refusal(400, message=message, param="max_tokens") if n == 0 else completion("It melts.")

    with openai_server(answering) as server, teacher(server.base_url, tmp_path) as asked:
        first, second = asked.generate(requests(2))
        assert "context length" in first.error and second.rationale == "It melts."
        assert all("max_tokens" in body for body in server.bodies) and len(server.bodies) == 2


def test_a_huge_question_of_many_scripts_arrives_whole(tmp_path: Path) -> None:
    question = "Ist 🧊 kalt\u2028или нет? " * 20_000
    request = TeacherRequest("1", "yes_no", question, ("yes", "no"), "yes", target_answer="yes")
    with openai_server(lambda *_: completion("Да.")) as server, teacher(server.base_url, tmp_path) as asked:
        [row] = asked.generate([request])
        assert " ".join(question.split()) in server.bodies[0]["messages"][-1]["content"]
    assert row.rationale == "Да." and row.question == question


def test_draws_of_a_request_have_seeds_of_their_own(tmp_path: Path) -> None:
    decoding = {"num_samples": 2, "temperature": 0.7}
    with openai_server(lambda body, _: completion(f"It melts {body['seed']}.")) as server:
        with teacher(server.base_url, tmp_path, decoding=decoding) as asked:
            rows = asked.generate(requests(2))
        assert {body["temperature"] for body in server.bodies} == {0.7}
        assert len({body["seed"] for body in server.bodies}) == 4
    assert [(row.id, row.sample) for row in rows] == [("0", 0), ("0", 1), ("1", 0), ("1", 1)]


def test_as_many_requests_are_under_way_as_configured_and_no_more(tmp_path: Path) -> None:
    """Each of the first four is answered when four are there; a fifth would have been the first's fault."""
    counts, there = {"now": 0, "most": 0}, asyncio.Event()

    async def answering(_: dict[str, Any], n: int) -> Response:
        counts["now"] += 1
        counts["most"] = max(counts["most"], counts["now"])
        if counts["now"] == 4:
            there.set()
        await there.wait()
        counts["now"] -= 1
        return completion("It melts.")

    rows = generate(answering, tmp_path, 12, concurrency=4)
    assert counts["most"] == 4 and all(row.rationale for row in rows)
