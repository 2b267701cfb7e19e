"""Every parameter of the real `openai` client: honoured, changing nothing, or refused by its name."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import httpx
import openai
import pytest
from openai.resources.chat.completions import Completions as ChatCompletions
from openai.resources.completions import Completions
from test_app import KEY, Scripted, get, post

from cotray.config.serving import ServingConfig
from cotray.inference.decoding import GREEDY, Decoding
from cotray.records import QAPair, Reply, TokenLogprob
from cotray.serving.app import create_app
from cotray.serving.chat import Extra, question_of
from cotray.serving.openai_parameters import MAX_ANSWERS

ASKED: dict[str, Any] = {
    "model": "student",
    "messages": [{"role": "user", "content": "Is ice cold? (A) yes (B) no"}],
}
PROMPTED: dict[str, Any] = {"model": "student", "prompt": "Is ice cold? (A) yes (B) no"}

CHAT_HONOURED: dict[str, tuple[Any, Decoding]] = {
    "max_tokens": (7, Decoding(max_tokens=7)),
    "max_completion_tokens": (7, Decoding(max_tokens=7)),
    "stop": (["END", "\n"], Decoding(stop=("END", "\n"))),
    "temperature": (0.5, Decoding(temperature=0.5)),
    "top_p": (0.9, Decoding(temperature=1.0, top_p=0.9)),
    "seed": (-7, Decoding(seed=-7)),
    "logprobs": (True, Decoding(num_logprobs=0)),
}
TEXT_HONOURED = {name: CHAT_HONOURED[name] for name in ("max_tokens", "stop", "temperature", "top_p", "seed")}
TEXT_HONOURED |= {"logprobs": (2, Decoding(num_logprobs=2)), "best_of": (1, GREEDY)}

NEUTRAL: dict[str, list[Any]] = {
    "user": ["u-1"],
    "metadata": [{"run": "7"}],
    "store": [False],
    "safety_identifier": ["s"],
    "prompt_cache_key": ["k"],
    "prompt_cache_retention": ["24h"],
    "prompt_cache_options": [{"mode": "implicit"}],
    "service_tier": ["auto"],
    "parallel_tool_calls": [True],
    "prediction": [{"type": "content", "content": "yes"}],
    "frequency_penalty": [0, 0.0],
    "presence_penalty": [0],
    "logit_bias": [{}],
    "response_format": [{"type": "text"}],
    "tools": [[]],
    "tool_choice": ["none", "auto"],
    "functions": [[]],
    "function_call": ["none"],
    "modalities": [["text"]],
    "echo": [False],
    "suffix": [""],
}
REFUSED: dict[str, Any] = {
    "frequency_penalty": 0.5,
    "presence_penalty": -1,
    "logit_bias": {"5": 1},
    "response_format": {"type": "json_object"},
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "tool_choice": "required",
    "functions": [{"name": "f"}],
    "function_call": {"name": "f"},
    "modalities": ["text", "audio"],
    "audio": {"voice": "alloy", "format": "wav"},
    "reasoning_effort": "low",
    "verbosity": "low",
    "web_search_options": {"search_context_size": "low"},
    "moderation": {"model": "m"},
    "store": True,
    "echo": True,
    "suffix": "x",
    "best_of": 3,
    "stream_options": {"include_usage": True},
}


def asking(backend: Scripted, ask: Callable[[openai.AsyncOpenAI], Awaitable[Any]], **serving: Any) -> Any:
    """What the client makes of an application over the backend."""

    async def run() -> Any:
        app = create_app(backend, ServingConfig(**serving), [KEY])
        options: dict[str, Any] = {"base_url": "http://test/v1", "api_key": KEY, "max_retries": 0}
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as http:
            return await ask(openai.AsyncOpenAI(**options, http_client=http))  # pyright: ignore[reportArgumentType]

    return asyncio.run(run())


def chat(backend: Scripted | None = None, **given: Any) -> Any:
    return asking(backend or Scripted(), lambda client: client.chat.completions.create(**(ASKED | given)))


def complete(backend: Scripted | None = None, **given: Any) -> Any:
    return asking(backend or Scripted(), lambda client: client.completions.create(**(PROMPTED | given)))


def chunks_of(create: str, **given: Any) -> list[Any]:
    async def read(client: openai.AsyncOpenAI) -> list[Any]:
        resource = client.chat.completions if create == "chat" else client.completions
        asked = ASKED if create == "chat" else PROMPTED
        stream = await resource.create(**(asked | given), stream=True)
        return [chunk async for chunk in stream]

    return asking(Scripted(), read)


def test_every_parameter_of_the_client_has_its_case_here() -> None:
    transport = {"self", "model", "stream", "extra_headers", "extra_query", "extra_body", "timeout"}
    tried = {*NEUTRAL, *REFUSED, "n"}
    for create, own in (
        (ChatCompletions.create, {"messages", "top_logprobs", *CHAT_HONOURED}),
        (Completions.create, {"prompt", *TEXT_HONOURED}),
    ):
        assert set(inspect.signature(create).parameters) - transport - tried - own == set()


@pytest.mark.parametrize("name", CHAT_HONOURED)
def test_what_a_chat_asks_for_reaches_the_student(name: str) -> None:
    backend, (value, decoding) = Scripted(), CHAT_HONOURED[name]
    chat(backend, **{name: value})
    assert backend.decodings == [decoding]


@pytest.mark.parametrize("name", TEXT_HONOURED)
def test_what_a_completion_asks_for_reaches_the_student(name: str) -> None:
    backend, (value, decoding) = Scripted(), TEXT_HONOURED[name]
    complete(backend, **{name: value})
    assert backend.decodings == [decoding]


@pytest.mark.parametrize("given", [{}, {"temperature": 0}, {"top_p": 1}, {"temperature": 1.0, "top_p": 0}])
def test_without_anything_decoding_is_greedy(given: dict[str, Any]) -> None:
    backend = Scripted()
    chat(backend, **given)
    assert backend.decodings == [GREEDY]


@pytest.mark.parametrize("name", NEUTRAL)
def test_what_changes_nothing_is_accepted(name: str) -> None:
    for create in (chat, complete):
        resource = ChatCompletions.create if create is chat else Completions.create
        if name in inspect.signature(resource).parameters:
            for value in (*NEUTRAL[name], None):
                backend = Scripted()
                create(backend, **{name: value})
                assert backend.decodings == [GREEDY], value


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_student_cannot_do_is_a_400_that_names_it(name: str) -> None:
    for create in (chat, complete):
        resource = ChatCompletions.create if create is chat else Completions.create
        if name in inspect.signature(resource).parameters:
            with pytest.raises(openai.BadRequestError) as caught:
                create(**{name: REFUSED[name]})
            assert caught.value.param == name and caught.value.code == "unsupported_parameter"
            assert f"{name}: " in caught.value.message and "leave it out" in caught.value.message


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"extra_body": {"top_k": 5}}, "top_k"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"max_tokens": 3, "max_completion_tokens": 3}, "max_tokens"),
        ({"temperature": 0.001}, "temperature"),
    ],
)
def test_what_does_not_go_together_is_a_400_that_names_it(given: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        chat(**given)
    assert caught.value.param == param and caught.value.message.count(param)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"temperature": 3}, "temperature: Input should be less than or equal to 2"),
        ({"top_p": -0.1}, "top_p: Input should be greater than or equal to 0"),
        ({"n": 0}, "n: Input should be greater than or equal to 1"),
        ({"max_tokens": 0}, "max_tokens: Input should be greater than or equal to 1"),
        ({"stop": 5}, "stop: Input should be a valid string, or Input should be a valid list"),
        ({"stop": [""]}, "stop.0: String should have at least 1 character"),
        (
            {"messages": [{"role": "user", "content": 5}]},
            "messages.0.content: Input should be a valid string",
        ),
        ({"messages": [{"role": "robot", "content": "Q?"}]}, "messages.0.role: Input should be 'system'"),
        ({"messages": [{"role": "user", "content": [{}]}]}, "messages.0.content.0.type: Field required"),
        ({"messages": [{"content": "Q?"}]}, "messages.0.role: Field required"),
        ({"cotray": {"choice": ["a"]}}, "cotray.choice: Extra inputs are not permitted"),
        ({"messages": []}, "messages: List should have at least 1 item"),
    ],
)
def test_what_does_not_fit_is_told_by_its_field_and_what_it_wants(
    given: dict[str, Any], message: str
) -> None:
    response = post("/v1/chat/completions", ASKED | given)
    assert response.status_code == 422
    assert message in response.json()["error"]["message"]
    assert message.startswith(response.json()["error"]["param"])


@pytest.mark.parametrize("role", ["system", "developer", "assistant", "tool", "user"])
def test_a_message_that_would_not_be_read_is_refused_and_an_empty_one_is_not(role: str) -> None:
    question = ASKED["messages"]
    response = post(
        "/v1/chat/completions", ASKED | {"messages": [{"role": role, "content": "Hi."}, *question]}
    )
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (
        400,
        "messages.0",
        "unsupported_parameter",
    )
    assert "one question alone" in error["message"]
    empty = ASKED | {"messages": [{"role": role, "content": " "}, *question]}
    assert post("/v1/chat/completions", empty).status_code == 200


@pytest.mark.parametrize("messages", [[{"role": "user"}], [{"role": "system", "content": ""}]])
def test_a_chat_without_a_question_is_refused(messages: list[Any]) -> None:
    error = post("/v1/chat/completions", ASKED | {"messages": messages}).json()["error"]
    assert (error["param"], error["code"]) == ("messages", "invalid_question")


def test_a_part_that_is_no_text_is_refused_by_its_place() -> None:
    text = {"type": "text", "text": "What is this?"}
    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    with pytest.raises(openai.BadRequestError, match=r"messages\.0\.content\.1: a student reads text alone"):
        chat(messages=[{"role": "user", "content": [text, image]}])
    assert chat(messages=[{"role": "user", "content": [text]}]).choices[0].message.content


@pytest.mark.parametrize(
    ("text", "question", "choices"),
    [
        ("Is ice cold? (A) yes (B) no", "Is ice cold?", ["yes", "no"]),
        ("Is ice cold?\n(A) yes (B) no", "Is ice cold?", ["yes", "no"]),
        ("Which?\na) one b) two  c) the  third", "Which?", ["one", "two", "the  third"]),
        ("Which?\n(A) one (B) two\n(C) six (D) ten\nWhy?", "Which?\nWhy?", ["one", "two", "six", "ten"]),
        ("Which?\n(A) vitamin (B)\n(B) iron", "Which?", ["vitamin (B)", "iron"]),
        ("Does (A) or (B)?", "Does (A) or (B)?", []),
        ("Is vitamin A. B. or C. best?", "Is vitamin A. B. or C. best?", []),
        ("See (B) x (C) y", "See (B) x (C) y", []),
        ("Only (A) one", "Only (A) one", []),
    ],
)  # fmt: skip
def test_choices_on_one_line_are_choices(text: str, question: str, choices: list[str]) -> None:
    found = question_of(text, Extra())
    assert (found.question, found.choices) == (question, choices)


class Unsaid(Scripted):
    """Its student names no choice; what it writes has log-probabilities if they are asked for."""

    async def answer(
        self, model: str, pair: QAPair, rationale: str | None, decoding: Decoding = GREEDY
    ) -> Reply:
        self.decodings.append(decoding)
        tokens = (TokenLogprob("Co", -0.5, (("Co", -0.5), ("Wa", -1.5))), TokenLogprob("ld.", -0.25))
        added = " So the answer is no"
        return Reply(
            f"Cold.{added}",
            "Cold.",
            "no",
            wrote_answer=False,
            choice_logprobs=(-1.0, 0.0),
            num_prompt_tokens=5 + len(self.decodings),
            num_tokens=3,
            added=added,
            finish_reason="length",
            tokens=tokens if decoding.num_logprobs is not None else (),
        )


def test_text_that_cotray_added_is_marked_in_the_chat_and_in_the_stream() -> None:
    choice = chat(Unsaid()).choices[0]
    apart = choice.message.model_extra["cotray"]
    assert (apart["wrote_answer"], apart["added"]) == (False, " So the answer is no")
    assert choice.message.content.removesuffix(apart["added"]) == "Cold."
    assert choice.finish_reason == "length"
    assert complete(Unsaid()).choices[0].model_extra["cotray"] == apart
    for create in ("chat", "text"):
        last = chunks_of(create)[-1].choices[0]
        assert (last.delta if create == "chat" else last).model_extra["cotray"]["added"] == ""


def test_log_probabilities_have_openais_shapes() -> None:
    content = chat(Unsaid(), logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert [(token.token, token.logprob, token.bytes) for token in content] == [
        ("Co", -0.5, [67, 111]),
        ("ld.", -0.25, [108, 100, 46]),
    ]
    assert [(top.token, top.logprob) for top in content[0].top_logprobs] == [("Co", -0.5), ("Wa", -1.5)]
    assert chat(Unsaid()).choices[0].logprobs is None
    legacy = complete(Unsaid(), logprobs=2).choices[0].logprobs
    assert (legacy.tokens, legacy.token_logprobs, legacy.text_offset) == (
        ["Co", "ld."],
        [-0.5, -0.25],
        [0, 2],
    )
    assert legacy.top_logprobs[0] == {"Co": -0.5, "Wa": -1.5}


def test_n_answers_are_samples_of_one_question_which_is_counted_once() -> None:
    backend = Unsaid()
    whole = chat(backend, n=3, temperature=1, seed=4)
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    assert sorted(backend.decodings, key=lambda one: one.sample) == [
        Decoding(temperature=1, seed=4, sample=sample) for sample in range(3)
    ]
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens, whole.usage.total_tokens) == (6, 9, 15)


def test_prompts_are_answered_in_their_order_n_times_each() -> None:
    prompts = [f"Is it {name}? (A) {name} (B) no" for name in ("ice", "rain", "fog")]
    whole = complete(prompt=prompts, n=2)
    answers = [choice.model_extra["cotray"]["answer"] for choice in whole.choices]
    assert answers == ["ice", "ice", "rain", "rain", "fog", "fog"]
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (15, 24)  # 3 x 5, 6 x 4
    with pytest.raises(openai.BadRequestError, match=f"n: n times the prompts is {MAX_ANSWERS} at most"):
        complete(prompt=prompts, n=MAX_ANSWERS // 3 + 1)


@pytest.mark.parametrize("create", ["chat", "text"])
def test_a_stream_of_several_answers_tells_them_apart_by_their_index(create: str) -> None:
    texts = {0: "", 1: "", 2: ""}
    chunks = chunks_of(create, n=3)
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += (choice.delta.content if create == "chat" else choice.text) or ""
    assert {text.strip() for text in texts.values()} == {"Wet. So the answer is yes"}
    ended = [choice.index for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert sorted(ended) == [0, 1, 2]


@pytest.mark.parametrize("create", ["chat", "text"])
def test_a_stream_tells_its_usage_when_asked_and_only_then(create: str) -> None:
    *chunks, last = chunks_of(create, stream_options={"include_usage": True})
    assert (last.choices, last.usage.prompt_tokens, last.usage.completion_tokens) == ([], 5, 4)
    assert all(chunk.usage is None for chunk in chunks)
    assert all(chunk.choices and not chunk.usage for chunk in chunks_of(create))


def test_an_answer_that_the_request_cut_short_is_not_observed() -> None:
    class Cut(Scripted):
        async def answer(
            self, model: str, pair: QAPair, rationale: str | None, decoding: Decoding = GREEDY
        ) -> Reply:
            reply = await super().answer(model, pair, rationale, decoding)
            return replace(reply, is_cut=decoding.max_tokens == 3)

    backend = Cut()
    for given in ({"max_tokens": 3}, {"max_tokens": 3, "stream": True}, {"max_tokens": 300}, {}):
        post("/v1/completions", PROMPTED | given, backend, live_share=1)
    assert len(backend.observed) == 2


def test_several_answers_count_as_so_many_requests() -> None:
    async def ask(client: openai.AsyncOpenAI) -> None:
        await client.completions.create(**PROMPTED, n=10)
        with pytest.raises(openai.RateLimitError):
            await client.models.list()

    asking(Scripted(), ask, requests_per_minute=10)


def test_several_answers_wait_for_a_place_where_one_would_be_refused() -> None:
    whole = post("/v1/completions", PROMPTED | {"n": 5}, max_queued=1)
    assert (whole.status_code, len(whole.json()["choices"])) == (200, 5)


class Failing(Scripted):
    """One of its streams fails; the others wait until they are cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.num_begun = self.num_ended = 0

    async def stream(
        self, model: str, pair: QAPair, decoding: Decoding = GREEDY
    ) -> AsyncIterator[str | Reply]:
        self.num_begun += 1
        yield "Wet. "
        try:
            if decoding.sample == 1:
                raise ZeroDivisionError
            await asyncio.Event().wait()
        finally:
            self.num_ended += 1


def test_a_stream_of_which_one_answer_fails_ends_with_an_error_and_ends_the_others() -> None:
    backend = Failing()
    text = post("/v1/completions", PROMPTED | {"n": 3, "stream": True}, backend).text
    last = [line for line in text.split("\n\n") if line][-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "internal"
    assert backend.num_begun == backend.num_ended == 3


def test_one_model_is_told_by_its_name() -> None:
    card = asking(Scripted(), lambda client: client.models.retrieve("student"))
    assert (card.id, card.object) == ("student", "model")
    missing = get("/v1/models/other")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


def test_pages_of_a_configured_origin_may_ask_and_others_may_not() -> None:
    async def preflight(origin: str, **serving: Any) -> httpx.Response:
        app = create_app(Scripted(), ServingConfig(**serving), [KEY])
        asked = {"origin": origin, "access-control-request-method": "POST"}
        asked["access-control-request-headers"] = "authorization, x-stainless-lang"
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
            return await http.options("/v1/chat/completions", headers=asked)

    origins = ("https://a.example",)
    allowed = asyncio.run(preflight("https://a.example", cors_origins=origins)).headers
    assert allowed["access-control-allow-origin"] == "https://a.example" and allowed["x-request-id"]
    assert "x-stainless-lang" in allowed["access-control-allow-headers"]
    for response in (preflight("https://b.example", cors_origins=origins), preflight("https://a.example")):
        assert "access-control-allow-origin" not in asyncio.run(response).headers


def test_open_serving_names_the_origins_that_may_ask() -> None:
    with pytest.raises(ValueError, match="cors_origins"):
        ServingConfig(api_keys="open", cors_origins=("*",))
    assert ServingConfig(api_keys="open", cors_origins=("https://a.example",))
