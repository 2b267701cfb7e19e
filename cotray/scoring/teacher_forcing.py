"""log p of every token of given continuations, by teacher forcing.

B: contexts  N: continuations of all contexts  C: tokens of a continuation  V: vocabulary
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from cotray.scoring.contexts import Contexts

ROWS_AT_ONCE = 32
"""Continuations in one forward pass, whose logits are float32 over the whole vocabulary."""


@torch.inference_mode()
def token_logprobs(
    model: Any, rows: Sequence[Sequence[int]], continuations: Sequence[Sequence[Sequence[int]]]
) -> list[list[list[float]]]:
    """Natural-log probability of each token of each row's continuations (token ids, none empty)."""
    scores: list[list[list[float]]] = [[] for _ in rows]
    for chunk in _chunks(rows, continuations):
        contexts = Contexts(model, [rows[b] for b in chunk])
        contexts.fork([place for place, b in enumerate(chunk) for _ in continuations[b]])
        flat = [ids for b in chunk for ids in continuations[b]]
        values = iter(_score(contexts, flat))
        for b in chunk:
            scores[b] = [next(values) for _ in continuations[b]]
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


def _chunks(
    rows: Sequence[Sequence[int]], continuations: Sequence[Sequence[Sequence[int]]]
) -> Iterator[list[int]]:
    """Contexts of about equal length, with about ROWS_AT_ONCE continuations; none without any."""
    chunk: list[int] = []
    size = 0
    for b in sorted(range(len(rows)), key=lambda b: len(rows[b])):
        if chunk and size + len(continuations[b]) > ROWS_AT_ONCE:
            yield chunk
            chunk, size = [], 0
        if continuations[b]:
            chunk.append(b)
            size += len(continuations[b])
    if chunk:
        yield chunk
