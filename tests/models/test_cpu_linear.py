"""Packed linear layers compute what plain ones do, and a row the same alone as among others."""

from __future__ import annotations

import pytest
import torch

from cotray.models import cpu_linear
from cotray.models.cpu_linear import LEAST_WEIGHTS, PackedLinear, pack_linear_layers
from cotray.models.loading import load_for_inference, load_model


@pytest.mark.parametrize("name", ["random:llama", "random:qwen2", "random:gpt2", "random:t5"])
def test_a_packed_model_has_the_plain_ones_logits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_linear, "LEAST_WEIGHTS", 0)
    plain, (packed, _) = load_model(name, dtype=torch.float32), load_for_inference(name)
    assert any(isinstance(module, PackedLinear) for module in packed.modules())
    inputs = {"input_ids": torch.arange(20).reshape(2, 10) + 5}
    if plain.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = inputs["input_ids"][:, :4]
    with torch.inference_mode():
        torch.testing.assert_close(packed(**inputs).logits, plain(**inputs).logits, rtol=1e-4, atol=1e-5)


def test_a_row_alone_has_bit_for_bit_its_result_among_others() -> None:
    layer = torch.nn.Sequential(torch.nn.Linear(576, 1536))
    pack_linear_layers(layer)
    rows = torch.randn(64, 576)
    with torch.inference_mode():
        together = layer(rows)
        for row in (0, 17, 63):
            assert torch.equal(layer(rows[row : row + 1]), together[row : row + 1])
        assert torch.equal(layer(rows[3:9].unsqueeze(0))[0], together[3:9])


def test_an_embedding_that_is_also_the_head_is_left_as_it_was() -> None:
    embedding = torch.nn.Embedding(1024, 256)
    model = torch.nn.Sequential(embedding, torch.nn.Linear(256, 1024, bias=False))
    model[1].weight = embedding.weight
    with torch.inference_mode():
        expected = model(torch.arange(11))
        pack_linear_layers(model)
        assert type(model[1]) is PackedLinear and embedding.weight.requires_grad
        torch.testing.assert_close(model(torch.arange(11)), expected, rtol=1e-4, atol=1e-4)


def test_other_types_of_numbers_other_layers_and_small_ones_are_left_alone() -> None:
    model = torch.nn.Sequential(
        torch.nn.Linear(512, 512, dtype=torch.bfloat16),
        torch.nn.Conv1d(512, 512, 1),
        torch.nn.Linear(LEAST_WEIGHTS // 512 - 1, 512),
        torch.nn.Linear(LEAST_WEIGHTS // 512, 512),
    )
    pack_linear_layers(model)
    assert [type(module) for module in model] == [
        torch.nn.Linear,
        torch.nn.Conv1d,
        torch.nn.Linear,
        PackedLinear,
    ]
