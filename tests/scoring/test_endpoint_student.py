"""A few-shot baseline over /v1/completions is asked as a model at hand is, and its answers are read alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.responses import Response
from openai_server import Answering, continuation, openai_server

from cotray.config import ScoringConfig, TeacherConfig
from cotray.inference.cost_cap import CostCap
from cotray.inference.endpoint_model import EndpointModel
from cotray.inference.openai_endpoint import Endpoint
from cotray.models.random_models import byte_tokenizer
from cotray.prompts.few_shot import FewShotPrompt
from cotray.records import Rationale, StudentAnswer
from cotray.scoring.endpoint_student import EndpointStudent
from cotray.scoring.probes import Probe
from cotray.storage.paid_replies import PaidReplies

SHOW = FewShotPrompt(1)
TRAIN = Rationale("1", "yes_no", "Is ice cold?", ("yes", "no"), "yes", rationale="It freezes.")
TEST = replace(TRAIN, id="2", question="Is fire cold?", answer="no", split="test", rationale="It burns.")


def answers(answering: Answering, rows: list[Rationale], root: Path, **keys: Any) -> list[StudentAnswer]:
    with openai_server(answering) as server:
        tree = {"engine": "openai", "model": "m", "num_demonstrations": 1}
        teacher = TeacherConfig.model_validate(tree | {"endpoint": {"base_url": server.base_url}})
        model = EndpointModel(
            Endpoint(server.base_url, "m", "none"),
            CostCap(),
            PaidReplies(str(root), account=str(root)),
            stage="answers",
            concurrency=4,
        )
        try:
            student = EndpointStudent(
                teacher, model, byte_tokenizer(), config=ScoringConfig(), seed=1, **keys
            )
            return student.answer(rows)
        finally:
            model.close()


def test_interventions_are_asked_after_the_teachers_and_after_a_damaged_rationale(tmp_path: Path) -> None:
    asked = list[dict[str, Any]]()

    def answering(body: dict[str, Any], _: int) -> Response:
        asked.append(body)
        if body["prompt"] == SHOW.source(TRAIN):
            return continuation(" It melts. So the answer is yes.")
        if body["prompt"] == SHOW.source(TEST):
            return continuation(" It is hot so nobody knows.")
        end = body["prompt"].removeprefix(SHOW.source(TEST))
        return continuation({" It burns. So the answer is": " no."}.get(end, " Yes, I think."))

    train, test = answers(answering, [TRAIN, TEST], tmp_path)
    assert (train.rationale, train.student_answer, train.wrote_answer) == ("It melts.", "yes", True)
    assert (train.oracle_answer, train.perturbed_answer) == ("", "")
    assert (test.rationale, test.wrote_answer) == ("It is hot so nobody knows.", False)
    assert (test.student_answer, test.oracle_answer, test.perturbed_answer) == ("yes", "no", "yes")
    # Two that write, the answer that was not written, and two interventions.
    assert len(asked) == 5
    [damaged] = [
        body["prompt"]
        for body in asked[2:]
        if "It burns" not in body["prompt"] and "It is hot so nobody knows." not in body["prompt"]
    ]
    assert damaged.startswith(SHOW.source(TEST)) and damaged.endswith(" So the answer is")
    assert sorted(body["max_tokens"] for body in asked) == [16, 16, 16, 96, 96]


def test_what_names_no_choice_is_the_answer_as_it_was_said(tmp_path: Path) -> None:
    [row] = answers(lambda *_: continuation(" Perhaps."), [TRAIN], tmp_path)
    assert (row.student_answer, row.wrote_answer) == ("Perhaps", False)


def test_probes_are_asked_like_interventions(tmp_path: Path) -> None:
    def prober(pair: Any, own: str) -> Iterator[Probe]:
        yield Probe("own", pair.question, own)
        yield Probe("given no", "Really?", "It is not.")

    def answering(body: dict[str, Any], _: int) -> Response:
        return continuation(" no." if "Really?" in body["prompt"] else " It is. So the answer is yes.")

    [row] = answers(answering, [TEST], tmp_path, prober=prober)
    assert row.probes == ("own", "given no") and row.probe_answers[1] == "no"


@pytest.mark.parametrize("text", ["", "\n"])
def test_nothing_said_is_no_answer_and_nothing_more_is_asked_of_it(tmp_path: Path, text: str) -> None:
    [row] = answers(lambda *_: continuation(text), [TRAIN], tmp_path)
    assert (row.rationale, row.student_answer, row.wrote_answer) == ("", "", False)
