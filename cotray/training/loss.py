"""SCOTT's loss, L = (1 - alpha) * factual + alpha * counterfactual, as weighted sums over tokens.

Each term is a mean over the supervised tokens of the whole optimizer step (METHOD 3.2). Workers and
micro-batches therefore add up sums; the division by the step's token counts is in `loss_weights`.

B: batch  K: columns with a label  V: vocabulary
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F

from cotray.sequences import IGNORED, Batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class LossWeights(NamedTuple):
    """What a token's cross entropy is multiplied by, so that a step's sum is its loss."""

    factual: float
    counterfactual: float


def loss_weights(num_factual: float, num_counterfactual: float, *, alpha: float) -> LossWeights:
    """From the supervised tokens of a step; without counterfactual ones the loss is plain factual."""
    share = alpha if num_counterfactual else 0.0
    return LossWeights((1 - share) / num_factual, share / num_counterfactual if share else 0.0)


def token_loss_sum(
    logits_BKV: torch.Tensor, labels_BK: torch.Tensor, weights_B: torch.Tensor | None = None
) -> torch.Tensor:
    """Summed cross entropy of the supervised labels, in float32; 0 with a gradient if there are none."""
    logits, labels = logits_BKV.float().flatten(0, 1), labels_BK.flatten()
    if weights_B is None:
        return F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
    losses = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none")
    return (losses.view_as(labels_BK) * weights_B[:, None]).sum()


def batch_loss_sum(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """`token_loss_sum` of the model's logits for the batch's label columns."""
    logits_BKV = model(**batch.inputs, use_cache=False).logits[:, -batch.labels_BK.shape[1] :]
    return token_loss_sum(logits_BKV, batch.labels_BK, batch.weights_B)


def num_supervised(batch: Batch) -> float:
    """Supervised tokens, each counted with its row's weight."""
    num_B = (batch.labels_BK != IGNORED).sum(1)
    return float((num_B if batch.weights_B is None else num_B * batch.weights_B).sum())
