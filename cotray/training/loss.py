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


def token_loss_sum(logits_BKV: torch.Tensor, labels_BK: torch.Tensor) -> torch.Tensor:
    """Summed cross entropy of the supervised labels, in float32; 0 with a gradient if there are none."""
    return F.cross_entropy(
        logits_BKV.float().flatten(0, 1), labels_BK.flatten(), ignore_index=IGNORED, reduction="sum"
    )


def batch_loss_sum(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """`token_loss_sum` of the model's logits for the batch's label columns."""
    logits_BKV = model(**batch.inputs, use_cache=False).logits[:, -batch.labels_BK.shape[1] :]
    return token_loss_sum(logits_BKV, batch.labels_BK)


def num_supervised(batch: Batch) -> int:
    return int((batch.labels_BK != IGNORED).sum())
