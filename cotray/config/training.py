"""The sections `student` and `simulator`: which models are trained, and how."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from cotray.config.base import Config, Dtype, Fraction, ModelName
from cotray.config.conseq import ConSeqConfig


class ModelConfig(Config):
    model: ModelName = "embedded:smollm2-135m-instruct"
    """What is trained: Hugging Face id, folder, s3:// folder, `embedded:NAME` or `random:ARCHITECTURE`."""
    revision: str = "main"
    """Branch, tag or commit of the model on the Hub."""
    num_layers: int = Field(default=0, ge=0)
    """Keep so many evenly spaced layers of the model; 0 = all."""


def _on_or_off(value: object) -> object:
    """YAML reads a plain `on` or `off` as true or false."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


class TrainingConfig(Config):
    learning_rate: float = Field(default=3e-5, gt=0)
    """Of AdamW after warm-up; from there it falls linearly to 0."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Of AdamW."""
    warmup_fraction: Fraction = 0.06
    """Share of all steps in which the learning rate rises from 0."""
    clip_norm: float = Field(default=1.0, gt=0)
    """Gradients with a larger norm are scaled down to it."""
    epochs: int = Field(default=10, ge=1)
    """Passes over the factual examples at most; `patience` may end training earlier."""
    batch_size: int = Field(default=16, ge=1)
    """Factual examples per optimizer step over all workers; counterfactual ones come on top."""
    micro_batch_size: int = Field(default=8, ge=1)
    """Examples per forward pass of one worker; more micro-batches accumulate into a step."""
    counterfactual_weight: Fraction = 0.5
    """Alpha of L = (1 - alpha) * factual + alpha * counterfactual, for methods with counterfactuals."""
    tags: Annotated[Literal["on", "off", "shuffled"], BeforeValidator(_on_or_off)] = "on"
    """[factual] / [counterfactual] before the input; `off` and `shuffled` are ablations."""
    rationales: Literal["own", "shuffled"] = "own"
    """`shuffled` gives the student each question with another question's rationale: a control, in which
    nothing that is learned from rationales can be about the question."""
    max_length: int = Field(default=512, ge=8)
    """Tokens of one sequence (of each side for encoder-decoders); longer examples are dead letters."""
    patience: int = Field(default=1, ge=0)
    """Stop when more than so many epochs in a row did not improve the dev loss (SCOTT: 1)."""
    precision: Dtype = "auto"
    """Compute type; `auto`: bfloat16 where the device has it natively, else float32. Weights stay float32."""
    num_workers: int = Field(default=2, ge=1)
    """Processes that share every step; weights, gradients and optimizer are sharded over them."""
    num_cpus: float = Field(default=1, ge=0)
    """Logical CPUs (and torch threads) of one worker."""
    num_gpus: float = Field(default=0, ge=0)
    """GPUs of one worker: 0 trains on CPUs over gloo, 1 on GPUs over nccl."""
    label_selector: dict[str, str] = Field(default_factory=dict)
    """Node labels a worker needs, such as {ray.io/market-type: on-demand}."""
    seed: int | None = None
    """Of dropout and of the order of the examples; the run's own where it is not given."""
    max_failures: int = Field(default=3, ge=0)
    """Worker failures survived by going on from the last checkpoint."""

    def seed_or(self, seed: int) -> int:
        """Its own seed, or the run's."""
        return seed if self.seed is None else self.seed


class StudentConfig(ModelConfig):
    training: TrainingConfig = TrainingConfig()
    """How it is trained."""
    conseq: ConSeqConfig | None = None
    """A second phase after this training, with its other settings (ConSeq, Nan et al. 2021); null leaves
    it out."""


class SimulatorConfig(ModelConfig):
    mode: Literal["trained", "prompted"] = "trained"
    """`trained` on the student's outputs (Hase et al.), or the untrained model with demonstrations."""
    explanation_dropout: Fraction = 0.5
    """Share of each batch whose rationale is removed (Hase et al. 2020: 0.5 for QA, 0.4 for NLI)."""
    input_dropout: Fraction = 0.2
    """Share of each batch whose question is removed, so that the simulator also learns from e alone."""
    training: TrainingConfig = TrainingConfig(learning_rate=1e-4, warmup_fraction=0.1, epochs=8)
    """How it is trained."""

    @model_validator(mode="after")
    def _never_drops_both(self) -> Self:
        if self.explanation_dropout + self.input_dropout > 1:
            raise ValueError("explanation_dropout + input_dropout must not exceed 1")
        return self
