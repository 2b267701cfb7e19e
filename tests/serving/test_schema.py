"""The published OpenAPI document holds: schemathesis finds no 5xx and no answer outside it."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance
from test_app import HEADERS, KEY, Scripted

from cotray.config.serving import ServingConfig
from cotray.serving.app import create_app


class Healthy(Scripted):
    async def live(self) -> dict[str, Any]:
        return {"versions": {"student": {"las": 0.1, "alarm": False, "stale": False}}}


app = create_app(Healthy(), ServingConfig(), [KEY])
schema = schemathesis.openapi.from_asgi("/openapi.json", app)


@schema.parametrize()
@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
def test_every_answer_to_generated_requests_is_as_published(case: schemathesis.Case) -> None:
    # Rules between fields (multiple_choice has two choices or more) cannot be said in JSON Schema: such
    # requests are refused with 400 or 422, which is published.
    case.call_and_validate(headers=HEADERS, excluded_checks=[positive_data_acceptance])


@pytest.mark.parametrize(
    "path", ["/v1/answer", "/v1/simulate", "/v1/las", "/v1/chat/completions", "/v1/completions"]
)
def test_all_routes_are_published(path: str) -> None:
    assert schema[path]["POST"]
