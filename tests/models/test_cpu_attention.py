"""Attention without copies of keys and values equals transformers' own."""

from __future__ import annotations

import pytest
import torch

from cotray.models.caches import cache_of, with_cache
from cotray.models.cpu_attention import NAME, share_keys_among_heads
from cotray.models.loading import load_for_inference, load_model

SMOLLM2 = "embedded:smollm2-135m-instruct"


def logits_of(model, ids_RT: torch.Tensor, mask_RT: torch.Tensor) -> torch.Tensor:
    """Of a padded batch, read in two parts with a cache between them."""
    with torch.inference_mode():
        first = model(input_ids=ids_RT[:, :7], attention_mask=mask_RT[:, :7], use_cache=True)
        second = model(
            input_ids=ids_RT[:, 7:],
            attention_mask=mask_RT,
            use_cache=True,
            **with_cache(model, cache_of(first)),
        )
    return torch.cat([first.logits, second.logits], 1)


@pytest.mark.parametrize("name", ["random:llama", "random:qwen2", "random:gpt2", SMOLLM2])
@pytest.mark.parametrize("padding", ["left", "right"])
def test_padded_and_cached_batches_have_the_logits_of_transformers_attention(name: str, padding: str) -> None:
    plain, shared = (load_model(name, dtype=torch.float32) for _ in range(2))
    share_keys_among_heads(shared)
    assert plain.config._attn_implementation == "sdpa" and shared.config._attn_implementation == NAME
    ids_RT = torch.arange(3 * 12).reshape(3, 12) * 7 % 250 + 2
    mask_RT = torch.ones_like(ids_RT)
    for row, width in enumerate((0, 3, 5)):
        mask_RT[row, slice(0, width) if padding == "left" else slice(12 - width, 12)] = 0
    expected, seen = (logits_of(model, ids_RT, mask_RT) for model in (plain, shared))
    torch.testing.assert_close(seen[mask_RT == 1], expected[mask_RT == 1], rtol=1e-4, atol=1e-4)


def test_keys_and_values_are_not_copied_for_every_query_head(monkeypatch: pytest.MonkeyPatch) -> None:
    shared, tokenizer = load_for_inference("random:llama")
    heads = []
    attention = torch.nn.functional.scaled_dot_product_attention

    def spy(query, key, value, **kwargs):
        heads.append((query.shape[1], key.shape[1]))
        return attention(query, key, value, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    inputs = tokenizer(["Rain falls.", "Snow"], return_tensors="pt", padding=True, padding_side="left")
    shared(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    assert set(heads) == {(2, 1)}


def test_encoder_decoders_keep_their_attention() -> None:
    model = load_model("random:t5", dtype=torch.float32)
    before = model.config._attn_implementation
    share_keys_among_heads(model)
    assert model.config._attn_implementation == before
