"""A language model that has read some contexts and goes on from each, in one or several branches.

What all contexts begin with, such as demonstrations, is computed once, and so is each context, however many
branches it has.

B: contexts  N: branches  C: tokens added  V: vocabulary
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

LEAST_SHARED = 32
"""Tokens that rows begin with; below that a pass of their own costs more than it saves."""


def num_shared_tokens(rows: Sequence[Sequence[int]]) -> int:
    """How many first tokens to compute once for all rows; 0 where that does not pay.

    Every row keeps a token of its own: the one whose logits are wanted.
    """
    if len(rows) == 1:
        return 0
    columns = zip(*(row[:-1] for row in rows), strict=False)
    num = next((i for i, ids in enumerate(columns) if len(set(ids)) > 1), min(map(len, rows)) - 1)
    return num if num >= LEAST_SHARED else 0


def read_once(model: Any, ids: Sequence[int], num_rows: int) -> Any:
    """A decoder-only model's keys and values of `ids`, for each of `num_rows` rows that begin with them."""
    shared = torch.tensor([list(ids)], device=model.device)
    cache = model(input_ids=shared, use_cache=True, logits_to_keep=1).past_key_values
    cache.batch_repeat_interleave(num_rows)
    return cache


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

    def fork(self, parents: Sequence[int]) -> None:
        """From now on branch n goes on from where branch `parents[n]` is."""
        parents_N = torch.tensor(parents, device=self.model.device)
        self.cache.batch_select_indices(parents_N)
        self.mask, self.next_N = self.mask[parents_N], self.next_N[parents_N]
        self.logits_NV = self.logits_NV[parents_N]
        if self.encoded is not None and self.encoder_mask is not None:
            self.encoded.last_hidden_state = self.encoded.last_hidden_state[parents_N]
            self.encoder_mask = self.encoder_mask[parents_N]

    def extend(self, ids_NC: torch.Tensor, mask_NC: torch.Tensor) -> torch.Tensor:
        """Logits (N, C, V) after each of the tokens added; `mask_NC` is 0 where padded, on the right."""
        self.mask = torch.cat([self.mask, mask_NC], 1)
        if self.encoded is not None:
            output = self.model(
                encoder_outputs=self.encoded,
                attention_mask=self.encoder_mask,
                decoder_input_ids=ids_NC,
                decoder_attention_mask=self.mask,
                past_key_values=self.cache,
                use_cache=True,
            )
        else:
            columns_C = torch.arange(ids_NC.shape[1], device=ids_NC.device)
            output = self.model(
                input_ids=ids_NC,
                attention_mask=self.mask,
                position_ids=self.next_N[:, None] + columns_C,
                past_key_values=self.cache,
                use_cache=True,
            )
        self.next_N = self.next_N + ids_NC.shape[1]
        self.logits_NV = output.logits[:, -1]
        return output.logits

    def _read_decoder(self, rows: Sequence[Sequence[int]]) -> None:
        """What all rows begin with, then the rest of each, padded on the left."""
        device = self.model.device
        num_shared = num_shared_tokens(rows)
        rests = [list(row[num_shared:]) for row in rows]
        width = max(map(len, rests))
        ids_BS = torch.tensor([[0] * (width - len(rest)) + rest for rest in rests], device=device)
        own_BS = torch.tensor([[0] * (width - len(rest)) + [1] * len(rest) for rest in rests], device=device)
        shared_BS = torch.ones(len(rows), num_shared, dtype=torch.long, device=device)
        cache = read_once(self.model, rows[0][:num_shared], len(rows)) if num_shared else None
        self.mask = torch.cat([shared_BS, own_BS], 1)
        positions_BS = (self.mask.cumsum(1) - 1).clamp(min=0)
        output = self.model(
            input_ids=ids_BS,
            attention_mask=self.mask,
            position_ids=positions_BS[:, num_shared:],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.cache = output.past_key_values
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
