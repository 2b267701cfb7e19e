"""How one reply is to be written. The HTTP application has it too: no torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cotray.seeds import digest


@dataclass(frozen=True)
class Decoding:
    """What a request asks of the student's decoding; without anything it is greedy and deterministic."""

    max_tokens: int | None = None
    """Of the text; None: as many as the student may write."""
    stop: tuple[str, ...] = ()
    """The text ends before the first of these strings."""
    temperature: float = 0.0
    """0: the likeliest token; else tokens are drawn from softmax(logits / temperature)."""
    top_p: float = 1.0
    """Draws are from the fewest tokens that have this probability together."""
    seed: int | None = None
    """Of the draws; None: the run's."""
    sample: int = 0
    """Which of several texts for the same question."""
    num_logprobs: int | None = None
    """So many likeliest tokens with each token of the text; 0: that token alone, None: nothing."""

    def most_tokens(self, limit: int) -> int:
        """Of a student that may write `limit` of them."""
        return limit if self.max_tokens is None else min(limit, self.max_tokens)

    def before_stop(self, text: str) -> str | None:
        """The text up to the first stop string; None where there is none in it."""
        places = [place for stop in self.stop if (place := text.find(stop)) >= 0]
        return text[: min(places)] if places else None

    def seed_of(self, source: str, *, run_seed: int) -> int:
        """63 bits that the draws for this question follow from, whatever it shares a batch with."""
        return digest(run_seed if self.seed is None else self.seed, source, "sample", str(self.sample)) >> 1


GREEDY = Decoding()


@dataclass(frozen=True)
class Step:
    """The log-probabilities of one token that was written: natural logarithms, before any temperature."""

    logprob: float
    likeliest: Sequence[tuple[int, float]]
    """(token id, log-probability), the likeliest first."""
