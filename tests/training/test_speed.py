"""Floating-point operations of a step, counted by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from cotray.training.speed import StepSpeed


@pytest.mark.parametrize("is_tied", [False, True])
def test_each_weight_that_multiplies_counts_six_times_for_each_token(is_tied: bool) -> None:
    """Per layer 4 * 8 * 8 of attention, 3 * 8 * 16 beside it and 2 * 8 of norms; 8 of the last norm; a head
    of 10 * 8, which is the embeddings where it is tied to them."""
    shape: dict[str, Any] = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2}
    heads: dict[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=10, tie_word_embeddings=is_tied, **shape, **heads)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    num_weights = 2 * (4 * 64 + 3 * 128 + 16) + 8 + 80
    figures = StepSpeed(model.to_empty(device="cpu")).of(num_tokens=100, seconds=0.5)
    assert figures["flop_per_s"] == 6 * num_weights * 100 / 0.5
    assert figures["memory_mib"] > 1 and "mfu" not in figures
