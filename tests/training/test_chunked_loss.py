"""The loss in chunks of tokens is the loss of all at once, and so is its gradient."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from test_loop import encoded, make_examples, one_thread  # noqa: F401
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, LlamaForCausalLM

from cotray.errors import ConfigError
from cotray.models.loading import load_model, load_tokenizer
from cotray.training.chunked_loss import check_chunked
from cotray.training.loss import token_loss_sum
from cotray.training.step import Batching, Collator, accumulate_gradients, evaluate


def gradients(name: str, chunk: int, batching: Batching, weight: float):
    model = load_model(name, dtype=torch.float32)
    rows = [
        encoded(name, [row for row in make_examples(7) if row.kind == kind])
        for kind in ("factual", "counterfactual", "factual")
    ]
    rows[0][0] = replace(rows[0][0], weight=weight)
    collator = Collator(model, load_tokenizer(name), 4, 0, batching)
    loss = accumulate_gradients(model, *map(collator, rows), alpha=0.3, loss_chunk=chunk)
    dev_loss = evaluate(model, collator(rows[0]), loss_chunk=chunk)
    return loss, dev_loss, [p.grad for p in model.parameters()]


@pytest.mark.parametrize(
    ("name", "batching"),
    [
        ("random:llama", "padded"),
        ("random:llama", "packed"),
        ("random:gpt2", "padded"),
        ("random:t5", "padded"),
    ],
)
@pytest.mark.parametrize("chunk", [1, 17, 10_000])
def test_every_chunk_size_gives_the_loss_and_gradient_of_all_logits(
    name: str, batching: Batching, chunk: int
) -> None:
    """Likely, counterfactual and rejected rows, one with a weight; gpt2 and T5 tie head and embeddings."""
    expected, expected_dev, grads = gradients(name, 0, batching, 0.25)
    loss, dev, found = gradients(name, chunk, batching, 0.25)
    assert loss.total == pytest.approx(expected.total, rel=1e-5)
    assert loss.rejected == pytest.approx(expected.rejected, rel=1e-5)
    assert dev == pytest.approx(expected_dev, rel=1e-5)
    for one, two in zip(grads, found, strict=True):
        assert (one is None) == (two is None)
        if one is not None and two is not None:
            assert (one - two).abs().max() <= 1e-5 * max(1.0, one.abs().max().item())


def test_no_tensor_of_all_logits_is_made() -> None:
    """The largest tensor that operations return, of 200 tokens and 5,000 words, is the head's matrix."""
    config = LlamaConfig(vocab_size=5000, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                         num_attention_heads=2, num_key_value_heads=2)  # fmt: skip
    model = LlamaForCausalLM(config)
    ids = torch.randint(0, 5000, (1, 201))

    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                Largest.size = max(Largest.size, out.numel())
            return out

    from cotray.models.sequences import Batch
    from cotray.training.loss import batch_loss_sum

    batch = Batch({"input_ids": ids[:, :-1]}, ids[:, 1:])
    with Largest():
        batch_loss_sum(model, batch, chunk=8).backward()
    assert Largest.size == 5000 * 16
    with Largest():
        batch_loss_sum(model, batch).backward()
    assert Largest.size == 200 * 5000


def test_a_model_that_caps_its_logits_is_refused_with_the_way_out() -> None:
    shape: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "head_dim": 16,
    }
    heads: dict[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 2}
    config = Gemma2Config(vocab_size=64, final_logit_softcapping=0.5, **shape, **heads)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(ConfigError, match=r"'g' is Gemma2ForCausalLM.*loss_chunk to 0"):
        check_chunked(model, "g", token_loss_sum)
    for name in ("random:llama", "random:gpt2", "random:t5"):
        check_chunked(load_model(name, dtype=torch.float32), name, token_loss_sum)
