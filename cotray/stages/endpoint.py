"""A teacher behind an endpoint, as stages use it: its key, its replies in the run folder, their cost."""

from __future__ import annotations

import json
import math
import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from cotray.config import RunConfig
from cotray.config.endpoint import EndpointConfig
from cotray.config.references import as_written, hidden
from cotray.inference.cost_cap import CostCap
from cotray.inference.endpoint_model import EndpointModel
from cotray.inference.openai_endpoint import Endpoint
from cotray.pools.replica import Process
from cotray.prompts.teacher import Demonstrations
from cotray.records import StudentAnswer
from cotray.scoring.probes import Prober
from cotray.storage.paid_replies import PaidReplies, replies_of, usage
from cotray.storage.run_folder import DeadLetter, RunFolder
from cotray.world.truth import probes

if TYPE_CHECKING:
    from cotray.scoring.endpoint_student import EndpointStudent

NO_KEY = "none"
"""What is sent where there is no key: servers of one's own ask for none."""


def read_key(config: RunConfig) -> SecretStr:
    """From the environment of the process that runs the command; replicas get it from there, in memory."""
    endpoint = _endpoint(config)
    key = os.environ.get(endpoint.api_key_env, "").strip()
    if not key:
        print(
            f"{endpoint.api_key_env} (teacher.endpoint.api_key_env) is not set: {hidden(endpoint.base_url)} "
            "is asked without a key",
            file=sys.stderr,
            flush=True,
        )
    return SecretStr(key or NO_KEY)


def open_endpoint(config: RunConfig, key: SecretStr, *, stage: str, account: str | None) -> EndpointModel:
    """`account`: the folder in which, or in whose folders, lies all that counts for the cost cap; None: the
    run's own."""
    endpoint = _endpoint(config)
    return EndpointModel(
        Endpoint(
            endpoint.base_url, config.teacher.model, key.get_secret_value(), timeout_s=endpoint.timeout_s
        ),
        CostCap(endpoint.price_in or 0.0, endpoint.price_out or 0.0, endpoint.max_cost),
        PaidReplies(config.run_dir, account=account or config.run_dir),
        stage=stage,
        concurrency=endpoint.concurrency,
    )


def num_batches_at_once(config: RunConfig, batch_size: int) -> int:
    return batches_for(_endpoint(config).concurrency, batch_size)


def batches_for(concurrency: int, batch_size: int) -> int:
    """So many that a server has all the requests it may, also while the last of a batch are awaited."""
    return 1 + math.ceil(concurrency / batch_size)


def teach_over_api(config: RunConfig, own: Demonstrations, key: SecretStr, account: str | None) -> Process:
    """A teacher, on its replica."""
    from cotray.teacher.openai_teacher import OpenAITeacher

    endpoint = open_endpoint(config, key, stage="rationales", account=account)
    return OpenAITeacher(config.teacher, endpoint, seed=config.seed, own=own).generate


def answer_over_api(config: RunConfig, own: Demonstrations, key: SecretStr, account: str | None) -> Process:
    """A few-shot student, on its replica."""
    prober = partial(probes, config.data.world) if config.data.is_world else None
    return student_over_api(config, own, key, account, stage="answers", prober=prober).answer


def student_over_api(
    config: RunConfig,
    own: Demonstrations,
    key: SecretStr,
    account: str | None,
    *,
    stage: str,
    prober: Prober | None = None,
) -> EndpointStudent:
    """`stage`: what its replies are kept and counted for."""
    from cotray.models.loading import load_tokenizer
    from cotray.scoring.endpoint_student import EndpointStudent

    return EndpointStudent(
        config.teacher,
        open_endpoint(config, key, stage=stage, account=account),
        load_tokenizer(config.student.model, revision=config.student.revision),
        config=config.scoring,
        seed=config.seed,
        own=own,
        prober=prober,
    )


def write_unanswered(folder: RunFolder, stage: str, record: type[StudentAnswer]) -> None:
    """Dead letters of the questions to which an endpoint said nothing; they count as answered wrongly."""
    reason = "the endpoint refused the question, or said nothing"
    letters = [
        DeadLetter(stage, row.id, reason, json.dumps(row.to_row()))
        for row in folder.read_records(stage, record)
        if row.kind == "factual" and not row.rationale and not row.student_answer
    ]
    folder.write_dead_letters(stage, letters)


def endpoint_metrics(config: RunConfig, folder: RunFolder, stage: str) -> dict[str, Any]:
    """For a stage's manifest: what was billed for it; `cost` is None where no price is known."""
    if config.teacher.engine != "openai":
        return {}
    endpoint, used = _endpoint(config), usage(replies_of(folder), stage)
    cost = None
    if endpoint.price_in is not None and endpoint.price_out is not None:
        purse = CostCap(endpoint.price_in, endpoint.price_out)
        cost = purse.cost(used["tokens_in"], used["tokens_out"])
    return {"endpoint": {"base_url": as_written(endpoint.base_url), **used, "cost": cost}}


def _endpoint(config: RunConfig) -> EndpointConfig:
    assert config.teacher.endpoint is not None, "the configuration was validated"
    return config.teacher.endpoint
