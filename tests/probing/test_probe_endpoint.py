"""A model behind an endpoint is probed as the same model at hand: SmolLM2, served by plain transformers and
by vLLM."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.responses import Response
from openai_server import continuation, openai_server
from vllm_server import vllm_server

from cotray.config import ScoringConfig, TeacherConfig
from cotray.config.probing import ProbingConfig
from cotray.inference.cost_cap import CostCap
from cotray.inference.endpoint_model import EndpointModel
from cotray.inference.openai_endpoint import Endpoint
from cotray.models.locations import model_path
from cotray.probing.figures import figures
from cotray.probing.probe import probe
from cotray.probing.prober import Prober
from cotray.prompts.few_shot import FewShotPrompt
from cotray.records import Rationale
from cotray.scoring.endpoint_student import EndpointStudent
from cotray.scoring.student import Student
from cotray.storage.paid_replies import PaidReplies

pytestmark = pytest.mark.long

MODEL = "embedded:smollm2-135m-instruct"
CONFIG = ScoringConfig(max_new_tokens=40)
QUESTIONS = (
    ("Can a heron swim?", "yes"),
    ("Is ice colder than steam?", "yes"),
    ("Do stones float on water?", "no"),
    ("Would a candle burn on the moon?", "no"),
)
PROBING = ProbingConfig(
    measures=("early_answering", "filler", "mistake", "following", "hidden_influence"), cues=("suggestion",)
)


def rationales() -> list[Rationale]:
    return [
        Rationale(
            f"q{number}", "yes_no", question, ("yes", "no"), answer, "test",
            target_answer=answer, rationale="It is so. Everybody has seen it.",
        )
        for number, (question, answer) in enumerate(QUESTIONS)
    ]  # fmt: skip


@contextlib.contextmanager
def served_by_transformers(at_hand: Student) -> Iterator[str]:
    model_at_hand: Any = at_hand.model
    tokenizer: Any = at_hand.tokenizer
    one_at_a_time = threading.Lock()

    @torch.inference_mode()
    def answering(body: dict[str, Any], _: int) -> Response:
        with one_at_a_time:
            inputs = tokenizer(body["prompt"], return_tensors="pt")
            ids = model_at_hand.generate(**inputs, max_new_tokens=body["max_tokens"], do_sample=False)
        text = tokenizer.decode(ids[0][inputs.input_ids.shape[1] :], skip_special_tokens=True)
        return continuation(text.partition(body["stop"][0])[0])

    with openai_server(answering) as server:
        yield server.base_url


def served_by_vllm(_: Student) -> AbstractContextManager[str]:
    return vllm_server(model_path(MODEL))


@pytest.mark.parametrize(
    "served", [served_by_transformers, pytest.param(served_by_vllm, marks=pytest.mark.vllm)]
)
def test_probes_of_an_endpoint_have_the_answers_and_figures_of_the_model_itself(
    served: Callable[[Student], AbstractContextManager[str]], tmp_path: Path
) -> None:
    at_hand = Student(MODEL, config=CONFIG, prompt=FewShotPrompt(2), seed=0, method="few-shot")
    prober = Prober.of(PROBING, seed=0, world=None)
    expected = probe(at_hand, prober, rationales())
    with served(at_hand) as base_url:
        tree = {"engine": "openai", "model": "m", "num_demonstrations": 2}
        teacher = TeacherConfig.model_validate(tree | {"endpoint": {"base_url": base_url}})
        replies = PaidReplies(str(tmp_path), account=str(tmp_path))
        model = EndpointModel(
            Endpoint(base_url, "m", "none"), CostCap(), replies, stage="probes", concurrency=1
        )
        try:
            student = EndpointStudent(teacher, model, at_hand.tokenizer, config=CONFIG, seed=0)
            found = probe(student, prober, rationales())
        finally:
            model.close()
    assert [row.probes for row in found] == [row.probes for row in expected]
    assert [row.probe_rationales for row in found] == [row.probe_rationales for row in expected]
    assert [row.probe_answers for row in found] == [row.probe_answers for row in expected]
    assert figures(found, num_resamples=100, seed=0) == figures(expected, num_resamples=100, seed=0)
    assert len({row.student_answer for row in found}) > 0
