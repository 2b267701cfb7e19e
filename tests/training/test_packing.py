"""Examples in one row give what each gives alone: logits, loss and gradient, and nothing else will do."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_loop import encoded, make_examples, one_thread  # noqa: F401
from transformers import AutoModelForCausalLM, LlamaConfig, MambaConfig, PreTrainedModel

from cotray.errors import ConfigError
from cotray.models.loading import load_model, load_tokenizer
from cotray.models.sequences import Encoded
from cotray.training.packing import check_packing
from cotray.training.step import Batching, Collator, StepLoss, accumulate_gradients

NAME = "random:llama"


def gradients(
    kinds: list[list[Encoded]], batching: Batching, **limits: int
) -> tuple[StepLoss, list[torch.Tensor]]:
    model = load_model(NAME, dtype=torch.float32)
    collator = Collator(model, load_tokenizer(NAME), limits.get("rows", 8), limits.get("tokens", 0), batching)
    loss = accumulate_gradients(model, *map(collator, kinds), alpha=0.3)
    return loss, [p.grad for p in model.parameters() if p.grad is not None]


def kinds_of(weight: float) -> list[list[Encoded]]:
    """Factual, counterfactual and rejected rows of very different lengths."""
    rows = {
        kind: encoded(NAME, [row for row in make_examples(9) if row.kind == kind])
        for kind in ("factual", "counterfactual")
    }
    rejected = encoded(NAME, [row for row in make_examples(3, prefix="why ") if row.kind == "factual"])
    return [
        [replace(rows["factual"][0], weight=weight), *rows["factual"][1:]],
        rows["counterfactual"],
        rejected,
    ]


@pytest.mark.parametrize("weight", [1.0, 0.25])
@pytest.mark.parametrize("limits", [{}, {"rows": 3}, {"tokens": 150}])
def test_loss_and_gradient_are_those_of_padded_rows(weight: float, limits: dict[str, int]) -> None:
    kinds = kinds_of(weight)
    padded, expected = gradients(kinds, "padded")
    packed, found = gradients(kinds, "packed", **limits)
    assert packed.total == pytest.approx(padded.total, rel=1e-6)
    assert packed.counterfactual == pytest.approx(padded.counterfactual, rel=1e-6)
    assert packed.rejected == pytest.approx(padded.rejected, rel=1e-6)
    for one, two in zip(expected, found, strict=True):
        assert (one - two).abs().max() <= 1e-5 * max(1.0, one.abs().max().item())
    assert packed.num_places == packed.num_tokens == padded.num_tokens < padded.num_places


@pytest.mark.parametrize("name", ["random:llama", "random:gpt2"])
def test_models_with_attention_keep_packed_examples_apart(name: str) -> None:
    check_packing(load_model(name, dtype=torch.float32), name)


def test_a_window_of_attention_is_kept_too() -> None:
    from transformers import MistralConfig

    config = MistralConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                           num_attention_heads=2, num_key_value_heads=1, sliding_window=3)  # fmt: skip
    check_packing(made(config), "windowed")


def made(config: object) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def test_a_model_with_a_state_of_its_own_is_refused_with_the_way_out() -> None:
    config = MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=4)
    with pytest.raises(ConfigError, match=r"'m' is MambaForCausalLM, .*batching to padded"):
        check_packing(made(config), "m")


def test_an_encoder_decoder_is_refused() -> None:
    with pytest.raises(ConfigError, match="an encoder-decoder"):
        check_packing(load_model("random:t5", dtype=torch.float32), "random:t5")


def test_an_attention_that_knows_no_positions_is_noticed() -> None:
    """A plain causal mask, which lets the second example see the first."""
    model = made(LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                             num_attention_heads=2, num_key_value_heads=2))  # fmt: skip
    forward = model.forward
    model.forward = lambda input_ids, position_ids, **rest: forward(
        input_ids, attention_mask=torch.ones_like(input_ids), position_ids=position_ids, **rest
    )
    with pytest.raises(ConfigError, match="see each other"):
        check_packing(model, "leaky")
