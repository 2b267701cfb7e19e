"""The section `probing`: what is changed in rationales and questions, to see what the answers do."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PlainValidator

from cotray.config.base import Config, Fraction, PoolConfig
from cotray.config.endpoint import url

ProbeMeasure = Literal["early_answering", "filler", "mistake", "following", "hidden_influence"]
CueName = Literal["suggestion", "authority", "metadata", "pattern"]


class ServedConfig(Config):
    url: Annotated[str, PlainValidator(url)]
    """Of a server of `cotray serve`, without a path."""
    model: str | None = None
    """The version that answers, as the server calls it; null: one by the versions' shares."""
    api_key_env: str = Field(default="COTRAY_API_KEY", pattern=r"^[A-Z_][A-Z0-9_]*$")
    """The environment variable that has a key of the server. It is read where the command runs."""
    concurrency: int = Field(default=8, ge=1)
    """Requests at once."""
    timeout_s: float = Field(default=120, gt=0)
    """Of one request."""


class ProbingConfig(PoolConfig):
    measures: tuple[ProbeMeasure, ...] = ()
    """What `probe` does to test questions; empty leaves the stage out of `run`. `early_answering`: the
    rationale ends early. `filler`: dots stand in its place. `mistake`: one of its sentences is made wrong.
    `following`: rationales for given answers. `hidden_influence`: the question suggests an answer."""
    cues: tuple[CueName, ...] = Field(
        default=("suggestion", "authority", "metadata", "pattern"), min_length=1
    )
    """How questions suggest an answer, each in a question of its own. In the made-up world the first word
    does, whatever is set here."""
    served: ServedConfig | None = None
    """Ask the run's student where `cotray serve` serves it; null: load it."""
    batch_size: int = Field(default=16, ge=1)
    """Questions that go through the model together, each with all that is asked about it."""
    max_error_rate: Fraction = 0.5
    """`probe` fails if more than this share of its rows ended with an error, or all."""
    num_cpus: float = Field(default=2, ge=0)
    """Logical CPUs (and torch threads) of one replica."""
