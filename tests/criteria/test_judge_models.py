"""Models that refuse a parameter, and those whose reply is cut at the cap on tokens."""

from __future__ import annotations

from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest
from fastapi.responses import Response
from openai_server import Answering, completion, openai_server, refusal
from rated import export_folder
from test_judge import GOOD, PRICES, by_text, judge, lines, max_bytes, results

CAP = "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."
HEAT = "Unsupported value: 'temperature' does not support 0 with this model."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return export_folder(tmp_path)


def reasoning(*, names_param: bool = True, answering: Answering = by_text) -> Answering:
    """Refuses `max_tokens`, then `temperature`, in the words of OpenAI's reasoning models."""

    def respond(body: dict[str, Any], n: int) -> Response | Awaitable[Response]:
        for name, message in (("max_tokens", CAP), ("temperature", HEAT)):
            if name in body:
                return refusal(400, message=message, param=name if names_param else None)
        return answering(body, n)

    return respond


@pytest.mark.parametrize("names_param", [True, False])
def test_refused_parameters_are_left_out_of_all_further_requests(folder: Path, names_param: bool) -> None:
    with openai_server(reasoning(names_param=names_param)) as server:
        assert judge(folder, server.base_url, "--max-tokens=300") == 0
    assert len(server.bodies) == 2 + 12
    assert server.bodies[1].keys() == {"model", "messages", "temperature", "max_completion_tokens"}
    last = [body.keys() for body in server.bodies[2:]]
    assert last == [{"model", "messages", "max_completion_tokens"}] * 12
    assert {body["max_completion_tokens"] for body in server.bodies[1:]} == {300}
    assert len(lines(folder)) == 12 and results(folder)["judge"]["num_judged"] == 12


def test_model_that_refuses_the_temperature_alone_keeps_max_tokens(folder: Path) -> None:
    def answering(body: dict[str, Any], n: int) -> Response:
        is_refused = "temperature" in body
        return refusal(400, message="Only temperature=1 is supported.") if is_refused else by_text(body, n)

    with openai_server(answering) as server:
        assert judge(folder, server.base_url) == 0
    assert [body.get("max_tokens") for body in server.bodies] == [64] * 13


def test_requests_refused_at_the_same_time_all_go_on(folder: Path) -> None:
    with openai_server(reasoning()) as server:
        assert judge(folder, server.base_url, concurrency=12) == 0
    assert sorted(line["item"] for line in lines(folder)) == sorted({line["item"] for line in lines(folder)})
    assert len(lines(folder)) == 12 and results(folder)["judge"]["num_judged"] == 12


@pytest.mark.parametrize("message", ["messages: too long", f"{CAP} Nor 'max_completion_tokens'."])
def test_refusals_that_leave_no_way_out_are_one_line(folder: Path, capsys, message: str) -> None:
    with openai_server(lambda *_: refusal(400, message=message)) as server:
        assert judge(folder, server.base_url, concurrency=1) == 2
    assert len(server.bodies) == (2 if "max_tokens" in message else 1)
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and message in error


def test_cost_cap_holds_for_a_model_that_refuses_parameters(folder: Path) -> None:
    most_in = max_bytes(folder) + 64
    most = 0.01 * most_in + 0.1 * 64
    dear = reasoning(answering=lambda *_: completion(GOOD, tokens=(most_in, 64)))
    with openai_server(dear) as server:
        assert judge(folder, server.base_url, *PRICES, f"--max-cost={2.5 * most}", concurrency=8) == 1
    assert [body.keys() & {"max_tokens", "temperature"} for body in server.bodies].count(set()) == 2
    assert len(lines(folder)) == 2
    assert results(folder)["judge"]["cost"] == pytest.approx(2 * most)


def thinking(body: dict[str, Any], n: int) -> Response:
    """Students' rationales make it think for 500 tokens, of which the server shows none."""
    if "sings" not in body["messages"][-1]["content"] or body["max_tokens"] > 500:
        return completion(GOOD)
    return completion(None, tokens=(100, body["max_tokens"]), finish="length")


def test_answers_cut_at_the_cap_are_asked_again_with_a_larger_one(folder: Path, capsys) -> None:
    with openai_server(thinking) as server:
        assert judge(folder, server.base_url, "--max-tokens=200") == 0
        said = capsys.readouterr().out
        assert "12 judged, 4 unparsable;" in said and "4 of the unparsable were cut" in said
        assert "the same command with a larger --max-tokens asks them again" in said
        assert judge(folder, server.base_url, "--max-tokens=200") == 0
        assert judge(folder, server.base_url, "--max-tokens=100") == 0
        assert len(server.bodies) == 12
        assert judge(folder, server.base_url, "--max-tokens=400") == 0
        assert judge(folder, server.base_url, "--max-tokens=1000") == 0
        assert len(server.bodies) == 12 + 4 + 4
    assert "12 judged, 0 unparsable;" in capsys.readouterr().out
    assert results(folder)["judge"]["num_unparsable"] == 0
    assert [line["max_tokens"] for line in lines(folder)] == [200] * 12 + [400] * 4 + [1000] * 4
    assert results(folder)["judge"]["tokens_out"] == 8 * 10 + 4 * (200 + 400 + 10)


def test_only_answers_that_were_cut_are_blamed_on_the_cap(folder: Path, capsys) -> None:
    with openai_server(by_text) as server:
        assert judge(folder, server.base_url) == 0
    said = capsys.readouterr().out
    assert "12 judged, 4 unparsable;" in said and "--max-tokens" not in said


def test_unread_answers_of_files_without_a_cap_are_asked_again(folder: Path) -> None:
    with openai_server(by_text) as server:
        assert judge(folder, server.base_url) == 0
        path = folder / "j/judgements.jsonl"
        rows = path.read_text().replace(', "max_tokens": 64, "finish": "stop"', "")
        assert '"max_tokens"' not in rows
        path.write_text(rows)
        for _ in range(2):
            assert judge(folder, server.base_url) == 0
        assert len(server.bodies) == 12 + 4


def test_capped_run_does_not_count_what_it_was_to_ask_again(folder: Path, capsys) -> None:
    with openai_server(thinking) as server:
        assert judge(folder, server.base_url, *PRICES) == 0
        spent = results(folder)["judge"]["cost"]
        assert judge(folder, server.base_url, *PRICES, "--max-tokens=1000", f"--max-cost={spent + 1}") == 1
    assert "8 of 12 items are judged" in capsys.readouterr().err
    assert results(folder)["judge"]["num_unparsable"] == 4


def test_server_that_does_not_say_why_a_reply_ended_is_understood(folder: Path) -> None:
    with openai_server(lambda *_: completion(GOOD, finish=None)) as server:
        assert judge(folder, server.base_url) == 0
    assert len(server.bodies) == 12 and results(folder)["judge"]["num_unparsable"] == 0
