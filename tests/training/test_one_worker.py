"""A single worker on CPUs, as Ray Train starts it: in a process group of its own, with the model whole."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from cotray.models.loading import load_model, load_tokenizer
from cotray.models.sequences import encode
from cotray.records import TrainExample
from cotray.training.sharded_loading import load_for_training
from cotray.training.step import Collator, accumulate_gradients

NAME = "random:llama"


@pytest.fixture
def group_of_one():
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield
    dist.destroy_process_group()


def loss_and_gradients(precision: str | None) -> tuple[float, dict[str, torch.Tensor]]:
    """None leaves the model as it was loaded."""
    tokenizer = load_tokenizer(NAME)
    if precision is None:
        model = load_model(NAME, dtype=torch.float32)
    else:
        model = load_for_training(NAME, precision=precision)  # type: ignore[arg-type]
    rows = [
        TrainExample(str(n), "factual", "Can it fly? " * n, "It has wings. So the answer is yes")
        for n in (1, 3)
    ]
    encoded = [encode(row, tokenizer, is_encoder_decoder=False) for row in rows]
    loss = accumulate_gradients(model, Collator(model, tokenizer, 1)(encoded), [], alpha=0.0)
    return loss.total, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_the_model_of_one_worker_stays_whole_with_the_gradients_of_the_plain_model(group_of_one):
    expected_loss, expected = loss_and_gradients(None)
    loss, gradients = loss_and_gradients("float32")
    assert loss == expected_loss and gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        assert not isinstance(gradient, DTensor) and torch.equal(gradient, expected[name])


def test_one_worker_computes_in_bfloat16_and_keeps_float32_gradients(group_of_one):
    expected, _ = loss_and_gradients(None)
    loss, gradients = loss_and_gradients("bfloat16")
    assert loss == pytest.approx(expected, rel=0.05) and loss != pytest.approx(expected, rel=1e-6)
    assert {gradient.dtype for gradient in gradients.values()} == {torch.float32}
