"""The student's loss, L = (1 - alpha) * factual + alpha * counterfactual, as weighted sums over tokens.

Each term is a mean over the supervised tokens of the whole optimizer step (SCOTT). Workers and
micro-batches therefore add up sums; the division by the step's token counts is in `loss_weights`. With
rejected examples, the first term is ConSeq's: its mean is over the tokens of both, those to be
learned and those to be unlearned. Formulas: docs/explanation/method.md#student-loss

B: batch  K: columns with a label  V: vocabulary
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F

from cotray.models.sequences import IGNORED, Batch
from cotray.training.chunked_loss import chunked_loss_sum

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class LossWeights(NamedTuple):
    """What a token's loss is multiplied by, so that a step's sum is its loss; rejected as factual ones."""

    factual: float
    counterfactual: float


def loss_weights(
    num_factual: float, num_counterfactual: float, *, alpha: float, num_rejected: float = 0
) -> LossWeights:
    """From the supervised tokens of a step; without counterfactual ones the loss is plain factual."""
    share = alpha if num_counterfactual else 0.0
    return LossWeights(
        (1 - share) / (num_factual + num_rejected), share / num_counterfactual if share else 0.0
    )


def token_loss_sum(
    logits_BKV: torch.Tensor, labels_BK: torch.Tensor, weights_BK: torch.Tensor | None = None
) -> torch.Tensor:
    """Summed cross entropy of the supervised labels, in float32; 0 with a gradient if there are none."""
    logits, labels = logits_BKV.float().flatten(0, 1), labels_BK.flatten()
    if weights_BK is None:
        return F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
    losses = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none")
    return (losses.view_as(labels_BK) * weights_BK).sum()


def unlikelihood_sum(
    logits_BKV: torch.Tensor, labels_BK: torch.Tensor, weights_BK: torch.Tensor | None = None
) -> torch.Tensor:
    """Summed -log(1 - p(label)) of the supervised labels, in float32; 1 - p is at least 1e-20."""
    is_supervised_BK = labels_BK != IGNORED
    logprobs_BKV = logits_BKV.float().log_softmax(-1)
    logprobs_BK = logprobs_BKV.gather(-1, labels_BK.clamp(min=0)[..., None])[..., 0]
    loss_BK = -(1 - logprobs_BK.exp()).clamp(min=1e-20).log()
    # Not a product with the mask: a masked position's loss may be large, and its gradient is none.
    loss_BK = loss_BK.where(is_supervised_BK, 0.0)
    return (loss_BK if weights_BK is None else loss_BK * weights_BK).sum()


def batch_loss_sum(
    model: PreTrainedModel, batch: Batch, *, is_rejected: bool = False, chunk: int = 0
) -> torch.Tensor:
    """The summed loss of the model's logits for the label columns, `chunk` tokens at a time (0 = all)."""
    loss_sum = unlikelihood_sum if is_rejected else token_loss_sum
    if chunk:
        return chunked_loss_sum(model, batch, loss_sum, chunk)
    logits_BKV = model(**batch.inputs, use_cache=False).logits[:, -batch.labels_BK.shape[1] :]
    return loss_sum(logits_BKV, batch.labels_BK, batch.weights_BK)


def num_supervised(batch: Batch) -> float:
    """Supervised tokens, each counted with its row's weight."""
    weights_BK = 1.0 if batch.weights_BK is None else batch.weights_BK
    return float(((batch.labels_BK != IGNORED) * weights_BK).sum())
