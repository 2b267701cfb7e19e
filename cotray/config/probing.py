"""The section `probing`: what is changed in rationales and questions, to see what the answers do."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cotray.config.base import Fraction, PoolConfig

ProbeMeasure = Literal["early_answering", "filler", "mistake", "following", "hidden_influence"]
CueName = Literal["suggestion", "authority", "metadata", "pattern"]


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
    batch_size: int = Field(default=16, ge=1)
    """Questions that go through the model together, each with all that is asked about it."""
    max_error_rate: Fraction = 0.5
    """`probe` fails if more than this share of its rows ended with an error, or all."""
    num_cpus: float = Field(default=2, ge=0)
    """Logical CPUs (and torch threads) of one replica."""
