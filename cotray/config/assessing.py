"""The section `assessing`: how rationales are judged before a student learns from them."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from cotray.config.base import Config, Dtype, Fraction, ModelName, PoolConfig

Split = Literal["train", "dev", "test"]
Measure = Literal["surface", "quals", "qags", "simulation"]
Score = Literal[
    "num_words", "copy_rate", "repetition", "states_answer",
    "num_pairs", "grounded", "novel", "delta", "qags", "sim_gain",
]  # fmt: skip
ConSeqScore = Literal["num_words", "num_pairs", "grounded", "novel", "delta", "qags"]
"""Those of which more is better."""
MEASURE_OF: dict[Score, Measure] = {
    **dict.fromkeys(("num_words", "copy_rate", "repetition", "states_answer"), "surface"),
    **dict.fromkeys(("num_pairs", "grounded", "novel", "delta"), "quals"),
    "qags": "qags", "sim_gain": "simulation",
}  # fmt: skip


class Rule(Config):
    """Which rationales `train` drops or counts for less, by one score and exactly one bound.

    A rationale without the score (no pairs, no facts) is never caught.
    """

    score: Score
    """One of those that the measures add to a rationale."""
    below: float | None = None
    """Catches scores under this; `states_answer` is 0 or 1, `sim_gain` -1, 0 or 1."""
    above: float | None = None
    """Catches scores over this."""
    lowest: Fraction | None = None
    """Catches this share of the training rationales that have the score, of each kind."""
    highest: Fraction | None = None
    """The same from the other end."""
    weight: Fraction = 0.0
    """What the loss of a rationale that is caught is multiplied by; 0 drops it."""

    @property
    def text(self) -> str:
        """As the report names it."""
        name = next(
            name for name in ("below", "above", "lowest", "highest") if getattr(self, name) is not None
        )
        return f"{self.score} {name} {getattr(self, name):g}"

    @model_validator(mode="after")
    def _has_one_bound(self) -> Self:
        if sum(bound is not None for bound in (self.below, self.above, self.lowest, self.highest)) != 1:
            raise ValueError("a rule has exactly one of below, above, lowest and highest")
        return self


class AssessingConfig(PoolConfig):
    measures: tuple[Measure, ...] = ()
    """What `assess` adds to every rationale; empty leaves the stage out. `surface`: length, copying,
    repetition, answers stated outright. `quals`, `qags`: is it backed by the question and its facts.
    `simulation`: what the model answers with and without the rationale."""
    splits: tuple[Split, ...] = Field(default=("train", "dev", "test"), min_length=1)
    """Rationales of which questions; rules read those of train."""
    rules: tuple[Rule, ...] = ()
    """What `train` drops or counts for less; a rationale that several rules catch has their product."""
    model: ModelName = "embedded:smollm2-135m-instruct"
    """Writes and scores question-answer pairs: decoder-only or encoder-decoder."""
    revision: str = "main"
    """Branch, tag or commit of the model on the Hub."""
    dtype: Dtype = "auto"
    """`auto`: bfloat16 on a GPU, float32 on a CPU."""
    num_demonstrations: int = Field(default=6, ge=0, le=6)
    """Before each text; 0 for a model trained to write question-answer pairs."""
    num_groups: int = Field(default=16, ge=1)
    """Attempts at a pair about each rationale, by diverse decoding."""
    diversity: float = Field(default=0.5, ge=0)
    """What a token costs (nats) for each earlier group that took it at the same step."""
    max_pairs: int = Field(default=10, ge=1)
    """Question-answer pairs kept of each rationale."""
    max_new_tokens: int = Field(default=40, ge=1)
    """Length cap of a pair."""
    batch_size: int = Field(default=8, ge=1)
    """Rationales that go through the model at once."""
    max_error_rate: Fraction = 0.5
    """`assess` fails if more than this share of its rows ended with an error, or all; so does `train` for
    ConSeq's samples."""
    num_cpus: float = Field(default=2, ge=0)
    """Logical CPUs (and torch threads) of one replica."""

    @model_validator(mode="after")
    def _measures_what_its_rules_need(self) -> Self:
        for rule in self.rules:
            if (measure := MEASURE_OF[rule.score]) not in self.measures:
                raise ValueError(f"a rule needs {rule.score}: add {measure} to measures")
        if not self.num_demonstrations and (prompted := {"qags", "simulation"} & set(self.measures)):
            raise ValueError(
                f"{' and '.join(sorted(prompted))} prompt the model: with num_demonstrations 0, for a model "
                "trained to write question-answer pairs, measures can be surface and quals"
            )
        if self.rules and not {"train", "dev"} <= set(self.splits):
            raise ValueError("with rules, train learns from what was assessed: add train and dev to splits")
        return self
