"""One optimizer step and one evaluation, over all workers.

Every worker makes the same number of forward passes, or FSDP's collectives would not meet: one
without rows computes a row that has no label.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.distributed.tensor import DTensor

from cotray.errors import StageError
from cotray.models.sequences import Batch, Encoded, collate, encode
from cotray.records import TrainExample
from cotray.seeds import digest
from cotray.training.batches import StepExamples
from cotray.training.fsdp import all_sum, begin_backward, rank_and_world, reshard
from cotray.training.loss import batch_loss_sum, loss_weights, num_supervised

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class MicroBatch:
    batch: Batch
    num_supervised: float
    num_tokens: int


@dataclass(frozen=True)
class StepLoss:
    """Token means over all workers and micro-batches; None for a kind that the step has none of."""

    total: float
    factual: float
    counterfactual: float | None
    rejected: float | None
    num_tokens: float


@dataclass(frozen=True)
class Collator:
    """This worker's micro-batches of a global batch."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    micro_batch_size: int

    def __call__(self, examples: Sequence[TrainExample]) -> list[MicroBatch]:
        """Rank r takes the rows r::world, longest first, so that little is padded and ranks keep pace."""
        if not examples:
            return []
        is_encoder_decoder = self.model.config.is_encoder_decoder
        rank, world = rank_and_world()
        own = [
            encode(example, self.tokenizer, is_encoder_decoder=is_encoder_decoder)
            for example in examples[rank::world]
        ]
        own.sort(key=_num_tokens, reverse=True)
        num_micro_batches = math.ceil(math.ceil(len(examples) / world) / self.micro_batch_size)
        starts = range(0, num_micro_batches * self.micro_batch_size, self.micro_batch_size)
        return [self._collate(own[start : start + self.micro_batch_size]) for start in starts]

    def _collate(self, rows: Sequence[Encoded]) -> MicroBatch:
        config = self.model.config
        eos, pad = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        assert isinstance(eos, int) and isinstance(pad, int), (eos, pad)
        batch = collate(
            rows or [Encoded((eos,), (eos,), (False,))],
            pad_token_id=pad,
            is_encoder_decoder=config.is_encoder_decoder,
            start_token_id=getattr(config, "decoder_start_token_id", None) or 0,
        )
        return MicroBatch(batch, num_supervised(batch), sum(_num_tokens(row) for row in rows))


def train_step(
    optimizer: torch.optim.Optimizer,
    examples: StepExamples,
    *,
    collator: Collator,
    alpha: float,
    clip_norm: float,
) -> dict[str, float]:
    """Gradients, clipping, update. Raises StageError before the update if anything is not finite."""
    started = time.perf_counter()
    optimizer.zero_grad()
    loss = accumulate_gradients(collator.model, *map(collator, examples), alpha=alpha)
    grad_norm = _clip(collator.model, clip_norm)
    if not (math.isfinite(loss.total) and math.isfinite(grad_norm)):
        raise StageError(
            f"the loss is {loss.total} and its gradient norm {grad_norm}; "
            "lower training.learning_rate, or set training.precision to float32"
        )
    optimizer.step()
    seconds = time.perf_counter() - started
    metrics = {"loss": loss.total, "loss_factual": loss.factual}
    if loss.counterfactual is not None:
        metrics["loss_counterfactual"] = loss.counterfactual
    if loss.rejected is not None:
        metrics["loss_rejected"] = loss.rejected
    return {
        **metrics,
        "grad_norm": grad_norm,
        "num_tokens": loss.num_tokens,
        "step_s": seconds,
        "tokens_per_s": loss.num_tokens / seconds,
    }


def accumulate_gradients(
    model: PreTrainedModel,
    factual: Sequence[MicroBatch],
    counterfactual: Sequence[MicroBatch],
    rejected: Sequence[MicroBatch] = (),
    *,
    alpha: float,
) -> StepLoss:
    """Add the gradient of the step's loss to `.grad`: the same for every split into micro-batches.

    One backward per micro-batch of any kind: less memory for activations than one backward of the sum.
    """
    device = model.device
    kinds = (factual, counterfactual, rejected)
    *counts, num_tokens = all_sum(
        [
            *(sum(micro_batch.num_supervised for micro_batch in kind) for kind in kinds),
            sum(micro_batch.num_tokens for kind in kinds for micro_batch in kind),
        ],
        device,
    )
    of_step = loss_weights(counts[0], counts[1], alpha=alpha, num_rejected=counts[2])
    weights = (of_step.factual, of_step.counterfactual, of_step.factual)
    # FSDP averages gradients over the workers, and this loss is their sum.
    _, world = rank_and_world()
    parts = [(kind, micro_batch) for kind, batches in enumerate(kinds) for micro_batch in batches]
    sums = [torch.zeros((), device=device) for _ in kinds]
    for index, (kind, micro_batch) in enumerate(parts):
        begin_backward(model, is_last=index == len(parts) - 1)
        loss_sum = batch_loss_sum(model, micro_batch.batch.to(device), is_rejected=kind == 2)
        (loss_sum * (weights[kind] * world)).backward()
        sums[kind] += loss_sum.detach()
    totals = all_sum(sums, device)
    means = [total / count if count else None for total, count in zip(totals, counts, strict=True)]
    return StepLoss(
        total=sum(weight * total for weight, total in zip(weights, totals, strict=True)),
        factual=totals[0] / counts[0],
        counterfactual=means[1],
        rejected=means[2],
        num_tokens=num_tokens,
    )


@torch.no_grad()
def evaluate(model: PreTrainedModel, micro_batches: Sequence[MicroBatch]) -> float:
    """Token-mean cross entropy over the micro-batches of all workers."""
    model.eval()
    loss_sum = torch.zeros((), device=model.device)
    for micro_batch in micro_batches:
        loss_sum += batch_loss_sum(model, micro_batch.batch.to(model.device))
    reshard(model)
    num_supervised = sum(micro_batch.num_supervised for micro_batch in micro_batches)
    total, count = all_sum([loss_sum, num_supervised], model.device)
    return total / count


def seed_dropout(seed: int, step: int) -> None:
    """Dropout of a step depends on (seed, step, rank) alone, so that a resumed run repeats it."""
    torch.manual_seed(digest(seed, "dropout", str(step), str(rank_and_world()[0])))


def _clip(model: PreTrainedModel, clip_norm: float) -> float:
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    torch.nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm)
    return norm.item()


def _num_tokens(encoded: Encoded) -> int:
    return len(encoded.source) + len(encoded.target)
