"""log p of every token of given continuations, by teacher forcing.

B: contexts  N: continuations of all contexts  C: tokens of a continuation  V: vocabulary
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from cotray.inference.contexts import Contexts

CONTEXTS_AT_ONCE = 32
"""Read side by side; each holds its keys and values until its continuations are scored."""
ROWS_AT_ONCE = 32
"""Continuations in one forward pass, whose logits are float32 over the whole vocabulary."""


@torch.inference_mode()
def token_logprobs(
    model: Any, rows: Sequence[Sequence[int]], continuations: Sequence[Sequence[Sequence[int]]]
) -> list[list[list[float]]]:
    """Natural-log probability of each token of each row's continuations (token ids, none empty)."""
    scores: list[list[list[float]]] = [[[] for _ in group] for group in continuations]
    # Neighbours are of about equal length, contexts as well as continuations: less of a batch is padding.
    wanted = sorted((b for b, group in enumerate(continuations) if group), key=lambda b: len(rows[b]))
    for start in range(0, len(wanted), CONTEXTS_AT_ONCE):
        chunk = wanted[start : start + CONTEXTS_AT_ONCE]
        contexts = Contexts(model, [rows[b] for b in chunk])
        branches = [(n, b, i) for n, b in enumerate(chunk) for i in range(len(continuations[b]))]
        branches.sort(key=lambda branch: len(continuations[branch[1]][branch[2]]))
        for first in range(0, len(branches), ROWS_AT_ONCE):
            some = branches[first : first + ROWS_AT_ONCE]
            forked = contexts.fork([n for n, _, _ in some])
            logprobs = _score(forked, [continuations[b][i] for _, b, i in some])
            for (_, b, i), tokens in zip(some, logprobs, strict=True):
                scores[b][i] = tokens
    return scores


def _score(contexts: Contexts, flat: Sequence[Sequence[int]]) -> list[list[float]]:
    device, width = contexts.model.device, max(map(len, flat))
    ids_NC = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids in flat], device=device)
    mask_NC = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in flat], device=device)
    first_N1V = contexts.logits_NV[:, None]
    rest = contexts.extend(ids_NC[:, :-1], mask_NC[:, :-1]) if width > 1 else first_N1V[:, :0]
    logits_NCV = torch.cat([first_N1V, rest], 1).float()
    losses = torch.nn.functional.cross_entropy(
        logits_NCV.flatten(0, 1), ids_NC.flatten(), reduction="none"
    ).view_as(ids_NC)
    return [(-row[: len(ids)]).tolist() for row, ids in zip(losses, flat, strict=True)]
