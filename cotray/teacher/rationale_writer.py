"""From decoded tokens to the Rationale row, the same for every engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cotray.records import Rationale, TeacherRequest
from cotray.seeds import digest
from cotray.teacher.contrastive import StopTokens, TokenScores

if TYPE_CHECKING:
    from cotray.config import TeacherConfig
    from cotray.config.teacher import DecodingConfig

SMALL_TEACHER_PARAMETERS = 1e9
PLAUSIBILITY_OF_SMALL_TEACHERS = 0.1


@dataclass
class Decoded:
    """What an engine decoded for one draw of one request."""

    tokens: list[int] = field(default_factory=list)
    scores: list[TokenScores] = field(default_factory=list)
    """One per token if the engine records them, else empty."""
    stop_reason: str = ""
    last_text: str = ""
    """The text in front of the line break that ended it."""
    error: str = ""
    splits: int = 0
    """How often the two branches lost lock-step and were brought together again."""


@dataclass(frozen=True)
class RationaleWriter:
    """Turns Decoded into records. `name` is the teacher's, as the configuration gives it."""

    tokenizer: Any
    method: str
    name: str
    record_scores: bool
    stop_text: str = ""

    def write_all(self, requests: Sequence[TeacherRequest], draws: Sequence[Decoded]) -> list[Rationale]:
        """One record per draw; every request has equally many, next to each other."""
        num_draws = len(draws) // max(1, len(requests))
        return [
            self.write(requests[index // num_draws], decoded, sample=index % num_draws)
            for index, decoded in enumerate(draws)
        ]

    def write(self, request: TeacherRequest, decoded: Decoded, *, sample: int = 0) -> Rationale:
        text = str(self.tokenizer.decode(decoded.tokens, skip_special_tokens=True)) + decoded.last_text
        if decoded.stop_reason == "text":
            text = text.partition(self.stop_text)[0]
        text = text.strip()
        if decoded.error:
            # What was decoded before the failure stays out: nobody should train on half a sentence.
            text, decoded = "", Decoded(error=decoded.error, splits=decoded.splits)
        fields = {
            "method": self.method,
            "teacher": self.name,
            "sample": sample,
            "rationale": text,
            "num_tokens": len(decoded.tokens),
            "stop_reason": decoded.stop_reason,
            "splits": decoded.splits,
            "error": decoded.error or ("" if text else "empty rationale: the teacher stopped at once"),
        }
        row = Rationale.from_row(request.to_row() | fields)
        if not self.record_scores:
            return row
        scores = decoded.scores
        return replace(
            row,
            tokens=tuple(self.tokenizer.decode([token]) for token in decoded.tokens),
            greedy_tokens=tuple(self.tokenizer.decode([score.greedy]) for score in scores),
            grounded_logprobs=tuple(score.grounded for score in scores),
            contrast_logprobs=tuple(score.contrast for score in scores),
            greedy_grounded_logprobs=tuple(score.greedy_grounded for score in scores),
            greedy_contrast_logprobs=tuple(score.greedy_contrast for score in scores),
        )


def sample_seeds(seed: int, requests: Sequence[TeacherRequest], num_draws: int) -> list[int]:
    """One 63-bit seed per request and draw, in that order; draws of one request differ."""
    return [
        digest(seed, request.id, request.kind, request.target_answer, str(sample)) >> 1
        for request in requests
        for sample in range(num_draws)
    ]


def stop_tokens(tokenizer: Any, ends: frozenset[int], decoding: DecodingConfig) -> StopTokens:
    """What ends a rationale under `decoding.stop`: the ends of a text and, of its lines, every token of the
    vocabulary whose decoded text has a line break."""
    if decoding.stop != "line":
        return StopTokens(ends, {}, decoding.stop_text, tokenizer.decode)
    ids = list(range(len(tokenizer)))
    texts = tokenizer.batch_decode([[token] for token in ids])
    breaks = {token: text.split("\n")[0] for token, text in zip(ids, texts, strict=True) if "\n" in text}
    return StopTokens(ends, breaks)


def plausibility_of(config: TeacherConfig, num_parameters: float) -> float:
    """`auto` means the mask for small teachers, and the paper's form (no mask) for large ones."""
    configured = config.decoding.plausibility
    if configured != "auto":
        return configured
    return PLAUSIBILITY_OF_SMALL_TEACHERS if num_parameters < SMALL_TEACHER_PARAMETERS else 0.0


def num_common(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    for index, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return index
    return min(len(first), len(second))
