"""Contrastive scores and the stop rules: the mathematics every teacher engine shares.

B: pairs  V: vocabulary
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

StopReason = Literal["", "greedy_stop", "contrast_stop", "eos", "length"]


def contrastive_scores(
    grounded: torch.Tensor,
    contrast: torch.Tensor,
    *,
    weight: float | torch.Tensor,
    plausibility: float = 0.0,
) -> torch.Tensor:
    """log p(t | q, a) - weight * log p(t | q, a'), the decoding score of SCOTT (arXiv 2305.01879).

    grounded, contrast: logits `(..., V)`; weight: a number or one per row `(...)`.
    Returns float32 `(..., V)`. With plausibility > 0, tokens with p(t | q, a) below that share of the
    likeliest token's are -inf (V_head of Li et al. 2022). weight = 0 is greedy decoding; the paper's
    log P + G is the same argmax as weight = 0.5.
    """
    grounded_logp = grounded.float().log_softmax(-1)
    # A token impossible in both branches stays impossible; one impossible only in the contrast
    # branch gets a large but finite bonus, so that weight = 0 is not 0 * inf.
    contrast_logp = contrast.float().log_softmax(-1).clamp(min=-1e30)
    if isinstance(weight, torch.Tensor):
        weight = weight.to(grounded_logp).unsqueeze(-1)
    scores = grounded_logp - weight * contrast_logp
    threshold = grounded_logp.amax(-1, keepdim=True) + (
        math.log(plausibility) if plausibility > 0 else -math.inf
    )
    is_out = (grounded_logp < threshold) | (grounded_logp == -math.inf)
    return scores.masked_fill(is_out, -math.inf)


@dataclass(frozen=True)
class NextTokens:
    """One decoding step: all tensors are `(B,)`.

    `greedy` is what plain decoding on the grounded prompt would take, `chosen` what contrast takes;
    the log-probabilities are of `chosen`.
    """

    chosen_B: torch.Tensor
    greedy_B: torch.Tensor
    grounded_logp_B: torch.Tensor
    contrast_logp_B: torch.Tensor


def next_tokens(
    grounded_BV: torch.Tensor,
    contrast_BV: torch.Tensor | None,
    *,
    weight: float | torch.Tensor,
    plausibility: float,
    temperature: float = 1.0,
    temperature_on: Literal["both", "grounded"] = "both",
) -> NextTokens:
    """Greedy choice under the contrastive score; without a contrast branch, plain greedy decoding."""
    grounded_BV = grounded_BV.float() / temperature
    greedy_B = grounded_BV.argmax(-1)
    if contrast_BV is None:
        chosen_B, contrast_BV = greedy_B, grounded_BV
    else:
        contrast_BV = contrast_BV.float() / (temperature if temperature_on == "both" else 1.0)
        scores_BV = contrastive_scores(grounded_BV, contrast_BV, weight=weight, plausibility=plausibility)
        chosen_B = scores_BV.argmax(-1)
    picked_B1 = chosen_B.unsqueeze(-1)
    return NextTokens(
        chosen_B,
        greedy_B,
        (grounded_BV.gather(-1, picked_B1).squeeze(-1) - grounded_BV.logsumexp(-1)),
        (contrast_BV.gather(-1, picked_B1).squeeze(-1) - contrast_BV.logsumexp(-1)),
    )


@dataclass(frozen=True)
class StopTokens:
    """Which tokens end a rationale: end of sequence, or text with a line break in it.

    By decoded text, because many vocabularies have tokens such as ".\\n\\n" (METHOD 6.1.6).
    """

    eos: frozenset[int]
    text_before_break: dict[int, str]
    """Of every token with a line break, the text in front of it; it still belongs to the rationale."""

    def stop(self, chosen: int, greedy: int) -> tuple[StopReason, str]:
        """Why this step ends the rationale ("" = it does not), and the last piece of its text.

        The plain teacher's stop comes first: contrast suppresses line breaks, since both branches
        want to stop after a finished sentence (METHOD 1.4, TV-4).
        """
        if greedy in self.eos or (greedy not in self.text_before_break and chosen in self.eos):
            return "eos", ""
        if greedy in self.text_before_break:
            return "greedy_stop", self.text_before_break[greedy]
        if chosen in self.text_before_break:
            return "contrast_stop", self.text_before_break[chosen]
        return "", ""
