"""The parameters of OpenAI's completions: what a student honours, what changes nothing, what it cannot do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import ConfigDict, Field, StringConstraints

from cotray.inference.decoding import Decoding
from cotray.serving.middleware import Refused
from cotray.serving.schema import Described

MAX_ANSWERS = 32
"""Of one request: its prompts times `n`."""
LEAST_TEMPERATURE = 0.01
"""Below that, logits overflow; vLLM takes it in place of anything between 0 and it."""

Stop = Annotated[str, StringConstraints(min_length=1, max_length=1000)]


@dataclass(frozen=True)
class Only:
    """Of a parameter that a student cannot follow: the values, beside null, that ask for nothing."""

    values: tuple[Any, ...] = ()


Impossible = Annotated[Any, Only()]
NoPenalty = Annotated[Any, Only((0,))]


class StreamOptions(Described):
    model_config = ConfigDict(extra="forbid")
    include_usage: bool | None = False
    """A last chunk with the number of tokens."""
    include_obfuscation: bool | None = None
    """Changes nothing: chunks are never padded."""


class Parameters(Described):
    """What chat and text completions have in common."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"additionalProperties": False})
    model: str
    """One of /v1/models."""
    stream: bool | None = False
    """As server-sent events."""
    stream_options: StreamOptions | None = None
    """Of the stream; needs `stream`."""
    n: Annotated[int, Field(ge=1, le=MAX_ANSWERS)] | None = 1
    """Answers to each question. Without a temperature they are all the same."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Of the student's text, which never has more than `scoring.max_new_tokens`. To a text that ends for it
    nothing is added."""
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    """The text ends before the first of these strings, and nothing is added to it."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """0 is greedy; from 0.01, tokens are drawn from softmax(logits / temperature). Without it decoding is
    greedy, unless `top_p` below 1 asks for draws: then it is 1."""
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """Draws are from the fewest likeliest tokens that have this probability together; 0 is greedy."""
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    """Of the draws, with the question: the same request has the same answer. Without it the run's seed."""
    user: Any = None
    """Changes nothing."""
    frequency_penalty: NoPenalty = None
    """A student has no penalties: leave it out, or 0."""
    presence_penalty: NoPenalty = None
    """A student has no penalties: leave it out, or 0."""
    logit_bias: Annotated[Any, Only(({},))] = None
    """A student's logits are not changed: leave it out, or empty."""

    def check(self) -> None:
        """Raises Refused for what a student cannot do."""
        for name in self.model_extra or {}:
            raise refused(name[:100], "no such parameter; leave it out", code="unknown_parameter")
        for name, field in type(self).model_fields.items():
            value, text = getattr(self, name), " ".join((field.description or "").split())
            for only in field.metadata:
                if isinstance(only, Only) and value is not None and value not in only.values:
                    raise refused(name, text[:1].lower() + text[1:])
        if self.stream_options is not None and not self.stream:
            raise refused("stream_options", "goes with stream: true alone; leave it out")
        if 0 < (self.temperature or 0) < LEAST_TEMPERATURE:
            raise refused("temperature", f"0, or from {LEAST_TEMPERATURE} to 2")

    def decodings(self) -> list[Decoding]:
        """How each of the `n` answers to a question is written."""
        top_p = 1.0 if self.top_p is None else self.top_p
        temperature = self.temperature if self.temperature is not None else float(top_p < 1)
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return [
            Decoding(
                max_tokens=self.most_tokens(),
                stop=stop,
                temperature=temperature if top_p else 0.0,
                top_p=top_p or 1.0,
                seed=self.seed,
                sample=sample,
                num_logprobs=self.num_logprobs(),
            )
            for sample in range(self.n or 1)
        ]

    def most_tokens(self) -> int | None:
        return self.max_tokens

    def num_logprobs(self) -> int | None:
        """Of the likeliest tokens with each token, as `Decoding` has it."""
        raise NotImplementedError


class ChatParameters(Parameters):
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """The same as `max_tokens`, by its newer name."""
    logprobs: bool | None = False
    """The log-probability of each token that the student wrote; in a stream with the last chunk."""
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """So many likeliest tokens with each; needs `logprobs`."""
    response_format: Annotated[Any, Only(({"type": "text"},))] = None
    """A student writes a rationale and an answer as text: leave it out, or `{"type": "text"}`."""
    tools: Annotated[Any, Only(([],))] = None
    """A student calls no tools: leave it out."""
    tool_choice: Annotated[Any, Only(("none", "auto"))] = None
    """A student calls no tools: leave it out, or `none`."""
    functions: Annotated[Any, Only(([],))] = None
    """A student calls no functions: leave it out."""
    function_call: Annotated[Any, Only(("none", "auto"))] = None
    """A student calls no functions: leave it out, or `none`."""
    modalities: Annotated[Any, Only((["text"],))] = None
    """A student writes text: leave it out, or `["text"]`."""
    audio: Impossible = None
    """A student does not speak: leave it out."""
    reasoning_effort: Impossible = None
    """A student always writes a rationale and has no measure of effort: leave it out."""
    verbosity: Impossible = None
    """A student has no measure of length; `max_tokens` bounds it: leave it out."""
    web_search_options: Impossible = None
    """A student searches nothing: leave it out."""
    moderation: Impossible = None
    """A student moderates nothing: leave it out."""
    store: Annotated[Any, Only((False,))] = None
    """Completions are not stored: leave it out, or false."""
    metadata: Any = None
    """Changes nothing."""
    parallel_tool_calls: Any = None
    """Changes nothing: a student calls no tools."""
    prediction: Any = None
    """Changes nothing: it could make an answer faster, and never another one."""
    prompt_cache_key: Any = None
    """Changes nothing."""
    prompt_cache_options: Any = None
    """Changes nothing."""
    prompt_cache_retention: Any = None
    """Changes nothing."""
    safety_identifier: Any = None
    """Changes nothing."""
    service_tier: Any = None
    """Changes nothing."""

    def check(self) -> None:
        super().check()
        if self.top_logprobs is not None and not self.logprobs:
            raise refused("top_logprobs", "goes with logprobs: true alone; leave it out")
        if None not in (self.max_tokens, self.max_completion_tokens):
            raise refused("max_tokens", "the same as max_completion_tokens: give one of them")

    def most_tokens(self) -> int | None:
        return self.max_tokens or self.max_completion_tokens

    def num_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None


class TextParameters(Parameters):
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    """So many likeliest tokens with each token that the student wrote; in a stream with the last chunk."""
    best_of: Annotated[int, Field(ge=1, le=MAX_ANSWERS)] | None = None
    """Every answer is given and none chosen: leave it out, or as many as `n`."""
    echo: Annotated[Any, Only((False,))] = None
    """The prompt is not repeated: leave it out, or false."""
    suffix: Annotated[Any, Only(("",))] = None
    """A student fills no gaps: leave it out."""

    def check(self) -> None:
        super().check()
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise refused("best_of", "every answer is given and none chosen: leave it out, or as many as n")

    def num_logprobs(self) -> int | None:
        return self.logprobs


def refused(name: str, wants: str, *, code: str = "unsupported_parameter") -> Refused:
    return Refused(400, f"{name}: {wants}", code=code, param=name)
