"""A teacher behind an API through every stage on a real cluster: from questions to a report, interrupted,
capped and refused, and without a request that is made twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.responses import Response
from local_ray import joining
from openai_server import Answering, Server, completion, openai_server, refusal

from cotray.cli import job
from cotray.records import Rationale, StudentAnswer
from cotray.storage.run_folder import DeadLetter, RunFolder

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_cluster")]

METHODS = ["greedy+counterfactual", "few-shot"]
TRAINING = {"epochs": 1, "learning_rate": 1e-3, "max_length": 2048}


def write_config(path: Path, server: Server, *, limit: int = 24, **endpoint: Any) -> Path:
    tree = {
        "run_dir": str(path / "run"),
        "methods": METHODS,
        "data": {"path": "sample", "limit": limit},
        "teacher": {
            "engine": "openai",
            "model": "gpt-x",
            "prompt": "chat",
            "num_demonstrations": 1,
            "num_cpus": 1,
            "batch_size": 8,
            "endpoint": {"base_url": server.base_url, **endpoint},
        },
        "student": {"model": "random:qwen2", "training": TRAINING},
        "simulator": {"model": "random:qwen2", "mode": "prompted"},
        "scoring": {"max_new_tokens": 64, "num_cpus": 1},
    }
    file = path / "config.yaml"
    file.write_text(yaml.safe_dump(tree))
    return file


def sensible(body: dict[str, Any], _: int) -> Response:
    """Explains as it is told, answers the first thing that it can, and says what answer it was given."""
    said = body["messages"][-1]["content"]
    if "First explain" in said:
        return completion("It is seen every day.\nSo the answer is yes.")
    if "Explanation:" in said:
        return completion("no")
    given = said.rpartition(" is ")[0].rpartition("\n")[2]
    return completion(f"{given}. Everybody has seen it, and so it is.")


def asked(server: Server) -> list[str]:
    return [json.dumps(body, sort_keys=True) for body in server.bodies]


def test_a_run_of_two_methods_asks_each_thing_once_and_its_report_names_the_api(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-sesame")
    with openai_server(sensible) as server:
        config = write_config(tmp_path, server, price_in=1.0, price_out=2.0)
        assert job("run", ["-c", str(config)]) == 0, capsys.readouterr().err
        num_asked = len(server.bodies)
        assert len(set(asked(server))) == num_asked and set(server.keys) == {"Bearer sk-sesame"}
        table = capsys.readouterr().out
        for method in METHODS:
            assert f"{method} (gpt-x over an API)" in table
        assert job("run", ["-c", str(config)]) == 0 and len(server.bodies) == num_asked
    root = tmp_path / "run"
    spent = 0
    for method in METHODS:
        folder = RunFolder(str(root / method))
        rows = list(folder.read_records("rationales", Rationale))
        assert all(row.teacher == "gpt-x" and row.rationale and not row.error for row in rows)
        kinds = {"factual", "counterfactual"} if method == METHODS[0] else {"factual"}
        assert {row.kind for row in rows} == kinds
        assert len(list(folder.read_records("answers", StudentAnswer))) == 24
        spent += folder.require("rationales", "generate").metrics["endpoint"]["requests"]
    answers = RunFolder(str(root / "few-shot")).require("answers", "score").metrics["endpoint"]
    assert spent + answers["requests"] == num_asked
    assert answers["cost"] == pytest.approx(answers["requests"] * (100 * 1 + 10 * 2) / 1e6)
    few_shot = RunFolder(str(root / "few-shot"))
    said = list(few_shot.read_records("answers", StudentAnswer))
    tested = [row for row in said if row.split == "test"]
    assert tested and {row.rationale for row in said} == {"It is seen every day."}
    assert {row.oracle_answer for row in tested if row.task == "yes_no"} == {"no"}
    assert {row.student_answer for row in said if row.task == "yes_no"} == {"yes"}
    [card] = (root / "few-shot/cards").glob("dataset.*")
    assert "gpt-x (over an API) wrote them" in card.read_text()
    everything = b"".join(path.read_bytes() for path in root.rglob("*") if path.is_file())
    assert b"sk-sesame" not in everything and b"OPENAI_API_KEY" in everything


def test_a_killed_run_goes_on_without_asking_for_what_was_answered(
    tmp_path: Path, shared_cluster: str
) -> None:
    """One request at a time, and the process dies while the eleventh is made: it alone can be made twice."""
    is_there, may_answer = threading.Event(), threading.Event()

    def answering(body: dict[str, Any], n: int) -> Response:
        if n == 10:
            is_there.set()
            may_answer.wait(60)
        return sensible(body, n)

    with openai_server(answering) as server:
        config = write_config(tmp_path, server, concurrency=1)
        options = ["-c", str(config), "method=greedy"]
        assert job("prepare", options) == 0
        command = [sys.executable, "-m", "jobs.generate", *options]
        environment = joining(shared_cluster)
        with subprocess.Popen(command, env=environment, start_new_session=True) as process:
            assert is_there.wait(400)
            os.killpg(process.pid, signal.SIGKILL)
        may_answer.set()
        assert job("generate", options) == 0
        assert len(set(asked(server))) == 24 and len(server.bodies) <= 25
    rows = list(RunFolder(str(tmp_path / "run")).read_records("rationales", Rationale))
    assert len(rows) == 24 and all(row.rationale for row in rows)


@pytest.mark.long
def test_a_cap_ends_the_whole_run_over_its_methods_and_a_higher_one_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A request costs 1; the most that one can cost is under 10, so that 30 of them are less than 40."""
    with openai_server(sensible) as server:
        prices = {"price_in": 0, "price_out": 1e5, "max_cost": 40}
        config = write_config(tmp_path, server, **prices)
        options = ["-c", str(config), "teacher.decoding.max_new_tokens=64", "methods=[greedy, few-shot]"]
        assert job("run", options) == 1
        error = capsys.readouterr().err
        num_asked = len(server.bodies)
        assert 24 < num_asked <= 40
        assert f"max_cost=40 could be passed: {num_asked} requests of this run are answered" in error
        assert "higher one goes on" in error
        assert job("run", options) == 1 and len(server.bodies) == num_asked
        assert job("run", [*options, "teacher.endpoint.max_cost=1000"]) == 0, capsys.readouterr().err
        assert len(set(asked(server))) == len(server.bodies)


@pytest.mark.parametrize("status", [401, 404])
def test_a_refused_key_ends_a_run_at_once_with_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], status: int
) -> None:
    with openai_server(lambda *_: refusal(status, message="not you")) as server:
        config = write_config(tmp_path, server, concurrency=1, api_key_env="NO_SUCH_KEY")
        options = ["-c", str(config), "method=greedy"]
        assert job("prepare", options) == 0 and job("generate", options) == 2
        assert len(server.bodies) == 1
    error = capsys.readouterr().err
    assert "not you" in error and str(status) in error
    assert "NO_SUCH_KEY (teacher.endpoint.api_key_env) is not set" in error


def test_a_server_that_breaks_midway_ends_with_exit_code_1_and_the_rest_is_made_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    is_broken = True

    def answering(body: dict[str, Any], n: int) -> Response:
        return refusal(500, message="on fire") if is_broken and n >= 10 else sensible(body, n)

    with openai_server(answering) as server:
        config = write_config(tmp_path, server, concurrency=2)
        options = ["-c", str(config), "method=greedy"]
        assert job("prepare", options) == 0 and job("generate", options) == 1
        error = capsys.readouterr().err
        assert "on fire" in error and "10 requests of this run are answered" in error
        assert "the same command goes on" in error
        is_broken, num_asked = False, len(server.bodies)
        assert job("generate", options) == 0
        assert len(server.bodies) == num_asked + 14
        assert "24 requests, 2,400 tokens read, 240 written" in capsys.readouterr().out


def refusing(bad: str) -> Answering:
    def answering(body: dict[str, Any], n: int) -> Response:
        is_bad = bad in body["messages"][-1]["content"]
        return refusal(400, message="content_filter") if is_bad else sensible(body, n)

    return answering


def test_a_refused_row_is_a_dead_letter_with_its_cause_and_its_prompt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "x" * 1000
    rows = [{"id": str(n), "question": f"Is ice {n} cold?", "answer": "yes"} for n in range(20)]
    rows.append({"id": "bad", "question": f"Is MARKED {long} cold? 🧊", "answer": "yes"})
    data = tmp_path / "questions.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with openai_server(refusing("MARKED")) as server:
        config = write_config(tmp_path, server)
        options = ["-c", str(config), "method=few-shot", f"data.path={data}"]
        for verb in ("prepare", "generate", "train", "score"):
            assert job(verb, options) == 0, capsys.readouterr().err
        assert "1 x Error code: N - content_filter" in capsys.readouterr().out
    folder = RunFolder(str(tmp_path / "run"))
    letters = {letter.stage: letter for letter in folder.read_records("dead_letter", DeadLetter)}
    assert {letter.id for letter in letters.values()} == {"bad"}
    assert "content_filter" in letters["rationales"].reason
    assert json.loads(letters["rationales"].prompt)[-1]["content"].startswith("Is MARKED")
    [bad] = [row for row in folder.read_records("answers", StudentAnswer) if row.id == "bad"]
    assert (bad.rationale, bad.student_answer) == ("", "") and letters["answers"].id == "bad"
