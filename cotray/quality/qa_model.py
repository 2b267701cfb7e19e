"""A language model at question-answer pairs: it writes them about a text, and scores given ones."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from cotray.inference.diverse_beam_search import write_diverse
from cotray.inference.teacher_forcing import token_logprobs
from cotray.models.loading import load_for_inference
from cotray.prompts.qa_pairs import QuestionAnswer, pair_prompt, pair_target

ROWS_AT_ONCE = 64
"""Texts written side by side; each holds the keys and values of its prompt."""


class QAModel:
    """Any causal or encoder-decoder model.

    With `num_demonstrations` a decoder-only model needs no training for the task; its pair ends with the
    line. A model trained for it takes 0, and its pair ends with the sequence, as an encoder-decoder's does.
    """

    def __init__(
        self, name: str, *, revision: str = "main", dtype: str = "auto", num_demonstrations: int
    ) -> None:
        self.model, self.tokenizer = load_for_inference(name, revision=revision, dtype=dtype)
        self.num_demonstrations = num_demonstrations
        self.ends_with_line = num_demonstrations > 0 and not self.model.config.is_encoder_decoder
        self.is_line_end = lru_cache(maxsize=None)(self._is_line_end)

    def write_pairs(
        self, texts: Sequence[str], *, num_groups: int, strength: float, max_new_tokens: int
    ) -> list[list[str]]:
        """`num_groups` attempts at a pair about each text, the likeliest first; not all are pairs."""
        prompts = [pair_prompt(text, num_demonstrations=self.num_demonstrations) for text in texts]
        return self.write(prompts, num_groups=num_groups, strength=strength, max_new_tokens=max_new_tokens)

    def write(
        self, prompts: Sequence[str], *, num_groups: int, strength: float, max_new_tokens: int
    ) -> list[list[str]]:
        """`num_groups` continuations of each prompt, up to the end."""
        rows = [self.tokenizer(prompt).input_ids for prompt in prompts]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        size = max(1, ROWS_AT_ONCE // num_groups)
        written: dict[int, list[str]] = {}
        for start in range(0, len(order), size):
            chunk = order[start : start + size]
            groups = write_diverse(
                self.model,
                [rows[i] for i in chunk],
                num_groups=num_groups,
                strength=strength,
                max_new_tokens=max_new_tokens,
                ends_at=self._ends_at,
            )
            texts = [self.tokenizer.batch_decode(group, skip_special_tokens=True) for group in groups]
            written |= zip(chunk, texts, strict=True)
        return [written[i] for i in range(len(rows))]

    def mean_logprobs(
        self, texts: Sequence[str], pairs: Sequence[Sequence[QuestionAnswer]]
    ) -> list[list[float]]:
        """Per text and pair: log p(pair | text), the mean over its tokens and its end."""
        prompts = [pair_prompt(text, num_demonstrations=self.num_demonstrations) for text in texts]
        rows = [self.tokenizer(prompt).input_ids for prompt in prompts]
        continuations = [[self.pair_ids(pair) for pair in group] for group in pairs]
        scores = token_logprobs(self.model, rows, continuations)
        return [[sum(tokens) / len(tokens) for tokens in group] for group in scores]

    def pair_ids(self, pair: QuestionAnswer) -> list[int]:
        """The pair's tokens with its end: by themselves, so that they are the same after every text."""
        end = "\n" if self.ends_with_line else ""
        eos: Any = self.tokenizer.eos_token_id
        ids: Any = self.tokenizer(pair_target(pair) + end, add_special_tokens=False).input_ids
        return ids if self.ends_with_line else [*ids, eos]

    def _ends_at(self, token: int) -> bool:
        return token == self.tokenizer.eos_token_id or (self.ends_with_line and self.is_line_end(token))

    def _is_line_end(self, token: int) -> bool:
        return "\n" in self.tokenizer.decode([token])
