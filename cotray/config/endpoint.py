"""The section `teacher.endpoint`: where a teacher is asked whose weights are elsewhere."""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import Field, PlainValidator, model_validator

from cotray.config.base import Config


def url(value: object) -> str:
    """Unlike where pydantic checks a pattern, a Reference stays one: the path may have a token in it."""
    if not isinstance(value, str) or not re.fullmatch(r"https?://[^\s@]+", value):
        raise ValueError("must be a URL such as http://localhost:8000/v1, without @")
    return value


class EndpointConfig(Config):
    base_url: Annotated[str, PlainValidator(url)]
    """Of any OpenAI-compatible server, up to and including /v1."""
    api_key_env: str = Field(default="OPENAI_API_KEY", pattern=r"^[A-Z_][A-Z0-9_]*$")
    """The environment variable that has the key, never the key itself. It is read where the command runs."""
    concurrency: int = Field(default=8, ge=1)
    """Requests at once."""
    timeout_s: float = Field(default=120, gt=0)
    """Of one request."""
    price_in: float | None = Field(default=None, ge=0)
    """Of a million tokens read, in any currency."""
    price_out: float | None = Field(default=None, ge=0)
    """Of a million tokens written, those of thinking included."""
    max_cost: float | None = Field(default=None, gt=0)
    """No request is made that could bring the whole run, with all that was paid before, above this cost."""

    @model_validator(mode="after")
    def _has_both_prices_or_none(self) -> Self:
        prices = (self.price_in, self.price_out)
        if None in prices and (self.max_cost is not None or prices != (None, None)):
            raise ValueError("max_cost needs price_in and price_out, and they need each other")
        return self
