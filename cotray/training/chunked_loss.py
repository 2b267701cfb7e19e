"""The loss without all logits at once: so many tokens go through the head at a time, forward and backward.

A vocabulary of 152,000 makes 0.6 MB of float32 logits of a token, and as much again for their softmax and
their gradient. Here the gradient of a chunk is taken as soon as its loss is there, so that nothing is
computed twice and no chunk's logits outlive it. While the model runs, its head returns what it is given, and
its matrix is applied here; a model that changes its logits afterwards (such as Gemma 2, which caps them) is
found out by trying, and refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from cotray.errors import ConfigError
from cotray.models.loading import vocabulary_size
from cotray.models.sequences import Batch, Encoded, collate
from cotray.training.fsdp import device_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LossSum = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]


def chunked_loss_sum(model: PreTrainedModel, batch: Batch, loss_sum: LossSum, chunk: int) -> torch.Tensor:
    """`loss_sum` of the model's logits for the batch's label columns, `chunk` tokens at a time."""
    head: Any = model.get_output_embeddings()
    with _given_back(head):
        hidden_BKD = model(**batch.inputs, use_cache=False).logits[:, -batch.labels_BK.shape[1] :]
    labels_BK, weights_BK = batch.labels_BK, batch.weights_BK
    weights_N = None if weights_BK is None else weights_BK.expand_as(labels_BK).flatten()
    hidden_ND, labels_N = hidden_BKD.flatten(0, 1), labels_BK.flatten()
    return _ChunkedLoss.apply(
        hidden_ND, head.weight, getattr(head, "bias", None), labels_N, weights_N, loss_sum, chunk
    )  # pyright: ignore[reportReturnType]


def check_chunked(model: PreTrainedModel, name: str, loss_sum: LossSum) -> None:
    """ConfigError where a model's loss in chunks is not that of its logits."""
    config, vocabulary = model.config, vocabulary_size(model)
    ids = tuple(number * 7919 % vocabulary for number in range(9))
    batch = collate(
        [Encoded(ids[:4], ids[4:], (True,) * 5)],
        pad_token_id=0,
        is_encoder_decoder=config.is_encoder_decoder,
    ).to(device_of(model))
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            logits = model(**batch.inputs, use_cache=False).logits[:, -batch.labels_BK.shape[1] :]
            expected = loss_sum(logits, batch.labels_BK, None).item()
            found = chunked_loss_sum(model, batch, loss_sum, 2).item()
        tolerance = 1e-3 if logits.dtype == torch.float32 else 2e-2
        is_equal = abs(found - expected) <= tolerance * max(1.0, abs(expected))
    except (RuntimeError, AttributeError, TypeError):
        is_equal = False
    model.train(was_training)
    if not is_equal:
        raise ConfigError(
            f"training.loss_chunk: '{name}' is {type(model).__name__}, whose logits are not its last states "
            "times one matrix; set training.loss_chunk to 0"
        )


@contextlib.contextmanager
def _given_back(head: torch.nn.Module) -> Iterator[None]:
    head.forward = lambda hidden: hidden
    try:
        yield
    finally:
        del head.forward


class _ChunkedLoss(torch.autograd.Function):
    """N: tokens  D: states  V: vocabulary"""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: torch.Tensor,
        weight_VD: torch.Tensor,
        bias_V: torch.Tensor | None,
        labels_N: torch.Tensor,
        weights_N: torch.Tensor | None,
        loss_sum: LossSum,
        chunk: int,
    ) -> torch.Tensor:
        inputs = [hidden_ND, weight_VD, *([] if bias_V is None else [bias_V])]
        needs = [tensor for tensor in inputs if tensor.requires_grad]
        # Sums over chunks are in float32 also where the computation is not.
        grads = [
            torch.zeros_like(tensor, dtype=torch.float32) if tensor.requires_grad else None
            for tensor in inputs
        ]
        total = torch.zeros((), device=hidden_ND.device)
        for start in range(0, len(labels_N), chunk):
            part = slice(start, start + chunk)
            leaves = [hidden_ND[part].detach(), *(tensor.detach() for tensor in inputs[1:])]
            with torch.set_grad_enabled(bool(needs)):
                for leaf, tensor in zip(leaves, inputs, strict=True):
                    leaf.requires_grad_(tensor.requires_grad)
                # States are in the type of the computation, and weights may be in float32 (autocast).
                matrices = [leaf.to(hidden_ND.dtype) for leaf in leaves[1:]]
                logits = F.linear(leaves[0], *matrices)
                weights = None if weights_N is None else weights_N[None, part]
                loss = loss_sum(logits[None], labels_N[None, part], weights)
            total += loss.detach()
            if needs:
                wanted = [leaf for leaf in leaves if leaf.requires_grad]
                found = iter(torch.autograd.grad(loss, wanted))
                for place, grad in enumerate(grads):
                    if grad is not None:
                        (grad[part] if place == 0 else grad).add_(next(found))
        ctx.grads, ctx.dtypes = grads, [tensor.dtype for tensor in inputs]
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> Any:
        (scale,) = grad_outputs
        found = [
            None if grad is None else (grad * scale).to(dtype)
            for grad, dtype in zip(ctx.grads, ctx.dtypes, strict=True)
        ]
        return (*found, *[None] * (7 - len(found)))
