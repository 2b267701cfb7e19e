"""The sections `student` and `simulator`: which models are trained, and how."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from cotray.config.adapter import AdapterConfig
from cotray.config.base import Config, Dtype, Fraction, ModelName, Replicas
from cotray.config.conseq import ConSeqConfig

# What does not change the weights beyond rounding, so that two attempts at a run may differ in it; and the
# seed, which is told apart because it may be the run's.
PLACEMENT = {
    "num_workers",
    "num_cpus",
    "num_gpus",
    "label_selector",
    "max_failures",
    "stall_timeout_s",
    "checkpoint_minutes",
    "micro_batch_size",
    "micro_batch_tokens",
    "batching",
    "loss_chunk",
    "activations",
    "gradients",
    "sharding",
    "offload",
    "compile",
    "tracking",
    "seed",
}
Tracking = Literal["tensorboard", "mlflow", "wandb", "trackio"]
UNSAID: dict[str, object] = {"batch_tokens": 0}
"""Keys that settings leave out where they have this value, as if they did not exist."""


class Workers(Replicas):
    min: int = Field(default=1, ge=1)
    """Training begins, and after a loss begins again, as soon as there is room for so many."""
    max: int = Field(default=1, ge=1)
    """It takes up to so many, also later, when room is found."""

    @model_validator(mode="before")
    @classmethod
    def _takes_a_number(cls, value: Any) -> Any:
        return {"min": value, "max": value} if isinstance(value, int) else value


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
    batch_tokens: int = Field(default=0, ge=0)
    """Tokens of factual examples per optimizer step, on average, in place of `batch_size`; 0 leaves it to
    that."""
    micro_batch_size: int = Field(default=8, ge=1)
    """Examples per forward pass of one worker at most; more passes accumulate into a step."""
    micro_batch_tokens: int = Field(default=0, ge=0)
    """Tokens per forward pass of one worker at most, with padding, unless one example is longer; 0 = any."""
    batching: Literal["padded", "packed"] = "padded"
    """`packed` puts the examples of a pass into one row without padding, each seeing itself alone; for
    decoder-only models whose attention supports it, which is tried before training."""
    loss_chunk: int = Field(default=0, ge=0)
    """Tokens whose logits are in memory at once, for large vocabularies; 0 = those of a forward pass. A model
    whose logits are more than a matrix times its states is refused."""
    activations: Literal["kept", "recomputed"] = "kept"
    """`recomputed` keeps what enters each block and computes the rest again in the backward pass: less
    memory, and about a third more time."""
    gradients: Literal["unsharded", "sharded"] = "unsharded"
    """`sharded` sums gradients over the workers after every micro-batch rather than once a step: less
    memory where a step has several, and more communication."""
    sharding: Literal["full", "hybrid"] = "full"
    """`hybrid` shards over the workers of a node, and every node has the whole model between them: less goes
    over the network, and more memory is taken."""
    offload: Annotated[Literal["off", "cpu"], BeforeValidator(_on_or_off)] = "off"
    """`cpu` keeps weights, gradients and optimizer in host memory, where the update is computed too; each
    block's weights come to the GPU when it computes."""
    compile: Annotated[Literal["off", "blocks"], BeforeValidator(_on_or_off)] = "off"
    """`blocks` compiles every block of the model with torch.compile; for GPUs."""
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
    num_workers: Workers = Workers()
    """Processes that share every step, and weights, gradients and optimizer among them: a number, or
    {min: 2, max: 8} for as many as there is room for."""
    num_cpus: float = Field(default=2, ge=0)
    """Logical CPUs (and torch threads) of one worker."""
    num_gpus: float = Field(default=0, ge=0)
    """GPUs of one worker: 0 trains on CPUs over gloo, 1 on GPUs over nccl."""
    label_selector: dict[str, str] = Field(default_factory=dict)
    """Node labels a worker needs, such as {ray.io/market-type: on-demand}."""
    seed: int | None = None
    """Of dropout and of the order of the examples; the run's own where it is not given."""
    checkpoint_minutes: float = Field(default=10, gt=0)
    """A checkpoint is made so often, beside the one after every epoch; a lost worker costs no more than
    that."""
    max_failures: int = Field(default=3, ge=0)
    """Worker failures survived by going on from the last checkpoint."""
    stall_timeout_s: float = Field(default=1800, gt=0)
    """The stage ends with exit code 1 if for so long its workers found no room and no node came."""
    tracking: tuple[Tracking, ...] = ()
    """Where the training is followed beside metrics.jsonl, through the clients of these names, which are to
    be installed; servers, projects and keys come from their own environment variables."""

    @model_validator(mode="after")
    def _has_gpus_for_what_needs_them(self) -> Self:
        if self.compile == "blocks" and not self.num_gpus:
            raise ValueError("compile=blocks is for GPUs: set num_gpus, or compile to off")
        if self.offload == "cpu" and not self.num_gpus:
            raise ValueError("offload=cpu frees memory of GPUs: set num_gpus, or offload to off")
        return self

    def seed_or(self, seed: int) -> int:
        """Its own seed, or the run's."""
        return seed if self.seed is None else self.seed

    def settings(self, *, with_seed: bool = False) -> dict[str, Any]:
        """What the weights depend on, beside the model and what it learns from."""
        values = self.model_dump(mode="json", exclude=PLACEMENT - ({"seed"} if with_seed else set()))
        return {k: v for k, v in values.items() if k not in UNSAID or v != UNSAID[k]}


class StudentConfig(ModelConfig):
    training: TrainingConfig = TrainingConfig()
    """How it is trained."""
    adapter: AdapterConfig | None = None
    """Learn small weights beside the model's, which stay as they are; null learns all weights."""
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
