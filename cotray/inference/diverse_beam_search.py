"""Diverse beam search with one beam per group (Vijayakumar et al. 2018): several texts from one prompt.

Each group takes the likeliest token, less `strength` for every earlier group that took the same token at
the same step and is still writing (Hamming diversity). transformers 5 has no group beam search of its own
any more. A text depends on its prompt alone, not on what else is in the batch.

B: prompts  G: groups  N = B * G  V: vocabulary
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from cotray.inference.contexts import Contexts

EndsAt = Callable[[int], bool]


@torch.inference_mode()
def write_diverse(
    model: Any,
    rows: Sequence[Sequence[int]],
    *,
    num_groups: int,
    strength: float,
    max_new_tokens: int,
    ends_at: EndsAt,
) -> list[list[list[int]]]:
    """`num_groups` continuations of each row of token ids, group by group, without the token they end at.

    The first group is plain greedy decoding; later ones stray further.
    """
    contexts = Contexts(model, rows).fork([b for b in range(len(rows)) for _ in range(num_groups)])
    written: list[list[int]] = [[] for _ in range(len(rows) * num_groups)]
    is_open_BG = torch.ones(len(rows), num_groups, dtype=torch.bool, device=model.device)
    # Rows of the model's batch; those that have ended stay until they are half of it.
    places = list(range(len(written)))
    logprobs_NV = contexts.logits_NV.float().log_softmax(-1)
    for step in range(max_new_tokens):
        logprobs_BGV = logprobs_NV.view(len(rows), num_groups, -1)
        tokens_BG = choose_diverse(logprobs_BGV, is_open_BG, strength=strength)
        was_open, tokens = is_open_BG.flatten().tolist(), tokens_BG.flatten().tolist()
        is_open = [is_still and not ends_at(token) for is_still, token in zip(was_open, tokens, strict=True)]
        for text, token, is_still in zip(written, tokens, is_open, strict=True):
            if is_still:
                text.append(token)
        is_open_BG = torch.tensor(is_open, device=model.device).view_as(is_open_BG)
        if not any(is_open) or step == max_new_tokens - 1:
            break
        open_rows = [row for row, n in enumerate(places) if is_open[n]]
        if len(open_rows) <= len(places) // 2:
            contexts = contexts.fork(open_rows)
            places = [places[row] for row in open_rows]
        tokens_M1 = tokens_BG.view(-1, 1)[places]
        contexts.extend(tokens_M1, torch.ones_like(tokens_M1))
        logprobs_NV[places] = contexts.logits_NV.float().log_softmax(-1)
    return [written[start : start + num_groups] for start in range(0, len(written), num_groups)]


def choose_diverse(logprobs_BGV: torch.Tensor, is_open_BG: torch.Tensor, *, strength: float) -> torch.Tensor:
    """The next token (B, G) of every group, in the order of the groups."""
    num_taken_BV = torch.zeros_like(logprobs_BGV[:, 0])
    tokens = []
    for group in range(logprobs_BGV.shape[1]):
        token_B = (logprobs_BGV[:, group] - strength * num_taken_BV).argmax(-1)
        tokens.append(token_B)
        num_taken_BV.scatter_add_(1, token_B[:, None], is_open_BG[:, group, None].to(num_taken_BV.dtype))
    return torch.stack(tokens, 1)
