"""Attention on CPUs for models whose query heads share keys and values.

Where there is a mask, transformers copies keys and values for every query head, as GPU kernels need it. On
CPUs these copies cost more than the attention (two cores, 64 rows of 290 positions, SmolLM2-135M: 64 ms a
layer with them, 7 ms without), and torch's kernel does without.

R: rows  T: query positions  S: key positions  H: query heads  K: key-value heads  D: head size
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "cotray_grouped"


def share_keys_among_heads(model: PreTrainedModel) -> None:
    """Let a decoder-only model that attends by torch's sdpa do so without the copies, in place."""
    if model.config._attn_implementation == "sdpa" and not model.config.is_encoder_decoder:
        AttentionInterface.register(NAME, _attend)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        model.set_attn_implementation(NAME)


def _attend(
    module: torch.nn.Module,
    query_RHTD: torch.Tensor,
    key_RKSD: torch.Tensor,
    value_RKSD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """As transformers' `sdpa_attention_forward`, to which everything but masked groups on a CPU is left."""
    is_plain = attention_mask is None or key_RKSD.shape[1] == query_RHTD.shape[1]
    if is_plain or query_RHTD.device.type != "cpu" or kwargs.get("position_bias") is not None:
        attended, _ = sdpa_attention_forward(
            module,
            query_RHTD,
            key_RKSD,
            value_RKSD,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            **kwargs,
        )
        return attended, None
    attended = torch.nn.functional.scaled_dot_product_attention(
        query_RHTD,
        key_RKSD,
        value_RKSD,
        attn_mask=attention_mask,
        dropout_p=dropout,
        scale=scaling,
        enable_gqa=True,
    )
    return attended.transpose(1, 2).contiguous(), None
