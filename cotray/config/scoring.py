"""The section `scoring`: how the student is asked, and the figures that come of it."""

from __future__ import annotations

from pydantic import Field

from cotray.config.base import Fraction, PoolConfig


class ScoringConfig(PoolConfig):
    batch_size: int = Field(default=16, ge=1)
    """Questions that go through the model together."""
    max_new_tokens: int = Field(default=96, ge=1)
    """Length cap of the student's rationale and answer."""
    perturbed_fraction: Fraction = 0.5
    """Share of the rationale's tokens that the perturbation replaces (SCOTT: 0.5)."""
    num_resamples: int = Field(default=10_000, ge=100)
    """Of the bootstrap that the intervals come from."""
    num_cpus: float = Field(default=2, ge=0)
    """Logical CPUs (and torch threads) of one replica."""
