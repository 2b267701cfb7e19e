"""Every row of a batch chooses its tokens in its own way: the likeliest, or one that its own seed draws.

B: rows  D: rows that draw  V: vocabulary
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from cotray.inference.decoding import Decoding, Step
from cotray.models.token_draws import draw, uniforms


class TokenChoice:
    """What transformers calls a logits processor: each step's logits with every row's token as the largest.

    Rows that are greedy keep their logits as they are.
    """

    def __init__(self, decodings: Sequence[Decoding], seeds: Sequence[int]) -> None:
        self.drawing = [row for row, decoding in enumerate(decodings) if decoding.temperature > 0]
        self.temperatures = [decodings[row].temperature for row in self.drawing]
        self.top_ps = [decodings[row].top_p for row in self.drawing]
        self.seeds = [seeds[row] for row in self.drawing]
        self.wanted = {
            row: decoding.num_logprobs
            for row, decoding in enumerate(decodings)
            if decoding.num_logprobs is not None
        }
        self.steps: dict[int, list[Step]] = {row: [] for row in self.wanted}
        """Of the rows that asked for log-probabilities; after a row's end they mean nothing."""
        self.num_steps = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Called once per step with logits (B, V)."""
        chosen = self._drawn(scores) if self.drawing else scores
        if self.wanted:
            self._note(scores, chosen)
        self.num_steps += 1
        return chosen

    def _drawn(self, scores_BV: torch.Tensor) -> torch.Tensor:
        device = scores_BV.device
        temperature_D1 = torch.tensor(self.temperatures, device=device)[:, None]
        kept_DV = nucleus(
            scores_BV[self.drawing].float() / temperature_D1,
            torch.tensor(self.top_ps, device=device, dtype=torch.float64),
        )
        seed_D = torch.tensor(self.seeds, device=device)
        token_D = draw(kept_DV, uniforms(seed_D, torch.full_like(seed_D, self.num_steps)))
        only_DV = torch.full_like(scores_BV[self.drawing], -torch.inf).scatter(-1, token_D[:, None], 0.0)
        drawn_BV = scores_BV.clone()
        drawn_BV[self.drawing] = only_DV
        return drawn_BV

    def _note(self, scores_BV: torch.Tensor, chosen_BV: torch.Tensor) -> None:
        for row, num_likeliest in self.wanted.items():
            logprobs_V = scores_BV[row].float().log_softmax(-1)
            top = logprobs_V.topk(min(num_likeliest, len(logprobs_V)))
            likeliest = list(zip(top.indices.tolist(), top.values.tolist(), strict=True))
            self.steps[row].append(Step(logprobs_V[chosen_BV[row].argmax()].item(), likeliest))


def nucleus(logits_BV: torch.Tensor, top_p_B: torch.Tensor) -> torch.Tensor:
    """The logits of the fewest likeliest tokens whose probabilities reach top_p, -inf elsewhere.

    Of equally likely tokens the first ones are kept. Holtzman et al. 2020, section 3.1.
    """
    in_order = logits_BV.double().softmax(-1).sort(dim=-1, descending=True, stable=True)
    before_BV = in_order.values.cumsum(-1) - in_order.values
    # Rounding leaves a sum of all probabilities a little below 1.
    is_kept_BV = (before_BV < top_p_B[:, None]) | (top_p_B[:, None] >= 1)
    return logits_BV.masked_fill(
        ~torch.zeros_like(is_kept_BV).scatter(-1, in_order.indices, is_kept_BV), -torch.inf
    )


def row_ends(
    tokenizer: Any, decodings: Sequence[Decoding], limit: int
) -> Callable[[list[list[int]]], list[bool]] | None:
    """Whether each row is to end after the tokens that it has; None where all may write `limit`."""
    if all(decoding.most_tokens(limit) == limit and not decoding.stop for decoding in decodings):
        return None

    def has_ended(decoding: Decoding, ids: list[int]) -> bool:
        if len(ids) >= decoding.most_tokens(limit):
            return True
        return bool(decoding.stop) and stops(tokenizer, decoding, ids)

    return lambda rows: [has_ended(decoding, ids) for decoding, ids in zip(decodings, rows, strict=True)]


def stops(tokenizer: Any, decoding: Decoding, ids: list[int]) -> bool:
    """Whether a stop string is in what the tokens say."""
    return decoding.before_stop(str(tokenizer.decode(ids, skip_special_tokens=True))) is not None
