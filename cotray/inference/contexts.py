"""A language model that has read some contexts and goes on from each, in one or several branches.

What all contexts begin with, such as demonstrations, is computed once, and so is each context, however many
branches it has.

B: contexts  N: branches  C: tokens added  V: vocabulary
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy, deepcopy
from typing import Any

import torch

from cotray.models.caches import cache_of, with_cache

LEAST_SHARED = 32
"""Tokens that rows begin with; below that a pass of their own costs more than it saves."""


def common_prefix(rows: Sequence[Sequence[int]], limit: int) -> int:
    """How many first tokens all rows have in common, at most `limit`, which no row is shorter than."""
    return next((i for i in range(limit) if len({row[i] for row in rows}) > 1), limit)


def num_shared_tokens(rows: Sequence[Sequence[int]]) -> int:
    """How many first tokens to compute once for all rows; 0 where that does not pay.

    Every row keeps a token of its own: the one whose logits are wanted.
    """
    if len(rows) == 1:
        return 0
    num = common_prefix(rows, min(map(len, rows)) - 1)
    return num if num >= LEAST_SHARED else 0


def pad_contexts(model: Any, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """Token ids and mask (B, S) for a decoder-only model; its keys and values of what all rows begin with.

    The beginning stands first, computed once, then the padding, then the rest of each row. None instead of
    keys and values where nothing is shared.
    """
    num_shared, width = num_shared_tokens(rows), max(map(len, rows))
    ids, mask = [], []
    for row in rows:
        num_pads = width - len(row)
        ids.append([*row[:num_shared], *[0] * num_pads, *row[num_shared:]])
        mask.append([1] * num_shared + [0] * num_pads + [1] * (len(row) - num_shared))
    ids_BS, mask_BS = torch.tensor(ids, device=model.device), torch.tensor(mask, device=model.device)
    if not num_shared:
        return ids_BS, mask_BS, None
    cache = cache_of(model(input_ids=ids_BS[:1, :num_shared], use_cache=True, logits_to_keep=1))
    cache.batch_repeat_interleave(len(rows))
    return ids_BS, mask_BS, cache


def _with_same_tensors(cache: Any) -> Any:
    """Another cache with the same keys and values, which layers replace and never write into."""
    is_of_both = hasattr(cache, "cross_attention_cache")
    parts = (cache.self_attention_cache, cache.cross_attention_cache) if is_of_both else (cache,)
    values = [value for part in parts for layer in part.layers for value in vars(layer).values()]
    return deepcopy(cache, {id(value): value for value in values})


class Contexts:
    """State of the model after the contexts; `logits_NV` predict every branch's next token."""

    def __init__(self, model: Any, rows: Sequence[Sequence[int]]) -> None:
        """`rows`: token ids, for encoder-decoders those of the encoder's input. One branch each."""
        self.model = model
        self.encoded: Any = None
        self.encoder_mask: torch.Tensor | None = None
        if model.config.is_encoder_decoder:
            self._read_encoder(rows)
        else:
            self._read_decoder(rows)

    def fork(self, parents: Sequence[int]) -> Contexts:
        """Branch n goes on from where branch `parents[n]` of these is, which stay where they are."""
        forked, parents_N = copy(self), torch.tensor(parents, device=self.model.device)
        forked.cache = _with_same_tensors(self.cache)
        forked.cache.batch_select_indices(parents_N)
        forked.mask, forked.next_N = self.mask[parents_N], self.next_N[parents_N]
        forked.logits_NV = self.logits_NV[parents_N]
        if self.encoded is not None and self.encoder_mask is not None:
            forked.encoded = copy(self.encoded)
            forked.encoded.last_hidden_state = self.encoded.last_hidden_state[parents_N]
            forked.encoder_mask = self.encoder_mask[parents_N]
        return forked

    def extend(self, ids_NC: torch.Tensor, mask_NC: torch.Tensor) -> torch.Tensor:
        """Logits (N, C, V) after each of the tokens added; `mask_NC` is 0 where padded, on the right."""
        self.mask = torch.cat([self.mask, mask_NC], 1)
        if self.encoded is not None:
            output = self.model(
                encoder_outputs=self.encoded,
                attention_mask=self.encoder_mask,
                decoder_input_ids=ids_NC,
                decoder_attention_mask=self.mask,
                use_cache=True,
                **with_cache(self.model, self.cache),
            )
        else:
            columns_C = torch.arange(ids_NC.shape[1], device=ids_NC.device)
            output = self.model(
                input_ids=ids_NC,
                attention_mask=self.mask,
                position_ids=self.next_N[:, None] + columns_C,
                use_cache=True,
                **with_cache(self.model, self.cache),
            )
        self.next_N = self.next_N + ids_NC.shape[1]
        self.logits_NV = output.logits[:, -1]
        return output.logits

    def _read_decoder(self, rows: Sequence[Sequence[int]]) -> None:
        ids_BS, self.mask, cache = pad_contexts(self.model, rows)
        num_read = cache.get_seq_length() if cache is not None else 0
        positions_BS = (self.mask.cumsum(1) - 1).clamp(min=0)
        output = self.model(
            input_ids=ids_BS[:, num_read:],
            attention_mask=self.mask,
            position_ids=positions_BS[:, num_read:],
            use_cache=True,
            logits_to_keep=1,
            **with_cache(self.model, cache),
        )
        self.cache = cache_of(output)
        self.next_N = positions_BS[:, -1] + 1
        self.logits_NV = output.logits[:, -1]

    def _read_encoder(self, rows: Sequence[Sequence[int]]) -> None:
        from transformers import DynamicCache, EncoderDecoderCache

        device, config = self.model.device, self.model.config
        width = max(map(len, rows))
        ids_BS = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)
        mask_BS = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
        self.encoder_mask = mask_BS
        self.encoded = self.model.get_encoder()(input_ids=ids_BS, attention_mask=mask_BS)
        self.cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self.mask = torch.zeros(len(rows), 0, dtype=torch.long, device=device)
        self.next_N = torch.zeros(len(rows), dtype=torch.long, device=device)
        start_B1 = torch.full((len(rows), 1), config.decoder_start_token_id, device=device)
        self.extend(start_B1, torch.ones_like(start_B1))
