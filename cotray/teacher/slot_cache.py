"""A key-value cache of slots that come and go, behind any transformers model's attention.

Every row has its own length, a finished row's slot is reused at once, and the prefix that all prompts
share is stored once and attended to by all rows in one matrix product. It plugs in through the two
public hooks of transformers: a Cache and a registered attention function.

R: rows of this forward pass  T: query positions  P: prefix length  L: own length
H: key-value heads  G: query heads per key-value head  D: head size
"""

from __future__ import annotations

import itertools
import weakref
from typing import Any

import torch
from transformers import AttentionInterface, Cache, PreTrainedModel

from cotray.errors import ConfigError
from cotray.models.caches import with_cache

_names = itertools.count()


class SlotCache(Cache):
    """Keys and values by (slot, position); the model writes to it and attends from it.

    Use: `forward_prefix` once per prefix, then `forward` with slots and the length each already has.
    """

    def __init__(self, model: PreTrainedModel, *, num_slots: int) -> None:
        super().__init__(layers=[])
        self.model = model
        self.num_slots = num_slots
        self.num_positions = 0
        self._pool: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._prefix: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._prefix_length = 0
        self._is_prefix_pass = False
        name = f"cotray_slots_{next(_names)}"
        # transformers keeps what is registered for good, and would keep cache and model with it.
        attend = weakref.WeakMethod(self._attend)
        AttentionInterface.register(name, lambda *args, **kwargs: attend()(*args, **kwargs))  # type: ignore[misc]
        model.set_attn_implementation(name)

    def reserve(self, num_positions: int) -> None:
        """Make room for rows of so many own positions; forgets all rows if it has to grow."""
        if num_positions > self.num_positions:
            self.num_positions = num_positions
            self._pool.clear()

    @torch.inference_mode()
    def forward_prefix(self, ids: list[int]) -> None:
        """Compute and keep the prefix that the following rows start with (may be empty)."""
        self._prefix.clear()
        self._prefix_length = len(ids)
        if not ids:
            return
        self._is_prefix_pass = True
        positions_1T = torch.arange(len(ids), device=self.model.device)[None]
        self._mask = torch.triu(torch.full((len(ids), len(ids)), -torch.inf, device=self.model.device), 1)[
            None, None
        ]
        self._call(torch.tensor([ids], device=self.model.device), positions_1T, keep=1)
        self._is_prefix_pass = False

    @torch.inference_mode()
    def forward(
        self, rows: list[list[int]], slots: list[int], lengths: list[int], *, keep: int = 1
    ) -> torch.Tensor:
        """Append each row's tokens to its slot, which holds `lengths` own tokens already.

        Returns the logits `(R, keep, V)` of the last `keep` tokens of every row.
        """
        device = self.model.device
        width = max(len(row) for row in rows)
        # Padding on the left; its keys go to a spare position that nobody attends to.
        spare = self.num_positions
        ids_RT = torch.tensor([[0] * (width - len(row)) + row for row in rows], device=device)
        own_RT = torch.tensor(
            [
                [spare] * (width - len(row)) + list(range(length, length + len(row)))
                for row, length in zip(rows, lengths, strict=True)
            ],
            device=device,
        )
        num_own = max(length + len(row) for row, length in zip(rows, lengths, strict=True))
        is_future_RTL = torch.arange(num_own, device=device) > own_RT[..., None]
        self._mask = torch.zeros(is_future_RTL.shape, device=device).masked_fill_(is_future_RTL, -torch.inf)[
            :, None
        ]
        self._own_RT, self._num_own = own_RT, num_own
        self._slots_R = torch.tensor(slots, device=device)
        self._is_run = slots == list(range(slots[0], slots[0] + len(slots)))
        self._first = slots[0]
        positions_RT = (own_RT + self._prefix_length).masked_fill_(own_RT == spare, 0)
        return self._call(ids_RT, positions_RT, keep=keep)

    @torch.inference_mode()
    def copy(self, sources: list[int], targets: list[int], num_positions: int) -> None:
        """Copy the first positions of some slots to others."""
        for keys, values in self._pool.values():
            keys[targets, :, :num_positions] = keys[sources, :, :num_positions]
            values[targets, :, :num_positions] = values[sources, :, :num_positions]

    # --- called by the model ---------------------------------------------------------------

    def update(self, key_states: Any, value_states: Any, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        if self._is_prefix_pass:
            self._prefix[layer_idx] = (key_states, value_states)
            return key_states, value_states
        if layer_idx not in self._pool:
            _, num_heads, _, head_size = key_states.shape
            shape = (self.num_slots, num_heads, self.num_positions + 1, head_size)
            # Zeros, not garbage: a masked NaN would still turn the weighted sum into NaN.
            self._pool[layer_idx] = (key_states.new_zeros(shape), value_states.new_zeros(shape))
        for pool, states in zip(self._pool[layer_idx], (key_states, value_states), strict=True):
            pool[self._slots_R[:, None], :, self._own_RT] = states.transpose(1, 2)
        keys, values = self._pool[layer_idx]
        # A run of slots is read in place; other selections are copied.
        rows = slice(self._first, self._first + len(self._slots_R)) if self._is_run else self._slots_R
        return keys[rows, :, : self._num_own], values[rows, :, : self._num_own]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self._prefix_length

    def _attend(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: Any,
        scaling: float | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        """softmax(q [prefix keys; own keys]) [prefix values; own values], in float32."""
        self._check(kwargs, num_keys=self._prefix_length + key.shape[2])
        num_rows, num_query_heads, num_queries, head_size = query.shape
        num_heads = key.shape[1]
        scale = head_size**-0.5 if scaling is None else scaling
        query_RHXD = (query * scale).reshape(num_rows, num_heads, -1, head_size)
        own_RHGTL = (query_RHXD @ key.transpose(2, 3)).unflatten(2, (-1, num_queries)).float()
        scores = own_RHGTL + self._mask[:, :, None]
        num_prefix = 0 if self._is_prefix_pass else self._prefix_length
        if num_prefix:
            prefix_key, prefix_value = self._prefix[module.layer_idx]  # type: ignore[index]
            query_HYD = query_RHXD.transpose(0, 1).reshape(num_heads, -1, head_size)
            prefix_HYP = query_HYD @ prefix_key[0].transpose(1, 2)
            prefix_RHGTP = prefix_HYP.unflatten(1, (num_rows, -1, num_queries)).transpose(0, 1)
            scores = torch.cat([prefix_RHGTP.float(), scores], dim=-1)
        weights = scores.softmax(-1).to(value.dtype)
        out_RHXD = weights[..., num_prefix:].flatten(2, 3) @ value
        if num_prefix:
            weights_HYP = weights[..., :num_prefix].transpose(0, 1).reshape(num_heads, -1, num_prefix)
            prefix_HYD = weights_HYP @ prefix_value[0]
            out_RHXD = out_RHXD + prefix_HYD.unflatten(1, (num_rows, -1)).transpose(0, 1)
        out = out_RHXD.reshape(num_rows, num_query_heads, num_queries, head_size)
        return out.transpose(1, 2).contiguous(), None

    def _call(self, ids_RT: torch.Tensor, positions_RT: torch.Tensor, *, keep: int) -> torch.Tensor:
        return self.model(
            input_ids=ids_RT,
            position_ids=positions_RT,
            # Any four-dimensional mask switches transformers' own mask off; _attend uses self._mask.
            attention_mask=self._mask,
            use_cache=True,
            logits_to_keep=keep,
            **with_cache(self.model, self),
        ).logits

    def _check(self, kwargs: dict[str, Any], *, num_keys: int) -> None:
        window = kwargs.get("sliding_window")
        if window is not None and num_keys > window:
            raise ConfigError(
                f"teacher prompt of {num_keys} tokens exceeds the model's attention window of {window}; "
                "lower teacher.num_demonstrations"
            )
        for feature in ("softcap", "s_aux", "position_bias"):
            if kwargs.get(feature) is not None:
                raise ConfigError(
                    f"teacher model uses attention with {feature}, which engine transformers does not support"
                )
