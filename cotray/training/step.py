"""One optimizer step and one evaluation, over all workers.

Every worker makes the same number of forward passes, or FSDP's collectives would not meet: one
without rows computes a row that has no label.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch.distributed.tensor import DTensor

from cotray.errors import StageError
from cotray.models.sequences import Batch, Encoded, collate, pack
from cotray.seeds import digest
from cotray.training.batches import StepExamples
from cotray.training.fsdp import Gradients, all_sum, begin_backward, device_of, rank_and_world, reshard
from cotray.training.loss import batch_loss_sum, loss_weights, num_supervised
from cotray.training.micro_batches import PASS_TOKENS, micro_batches

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


Batching = Literal["padded", "packed"]


@dataclass(frozen=True)
class MicroBatch:
    """`num_tokens` are read and learned; the model computes `batch.num_places`, those of the padding too."""

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
    num_places: float
    wish: float


@dataclass(frozen=True)
class Collator:
    """This worker's micro-batches of examples, of which all workers know all."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    micro_batch_size: int
    micro_batch_tokens: int = 0
    batching: Batching = "padded"
    loss_chunk: int = 0
    """Tokens whose logits are there at once; 0 = those of a pass."""

    def __call__(self, examples: Sequence[Encoded]) -> list[MicroBatch]:
        return list(self.each(examples))

    def each(self, examples: Sequence[Encoded]) -> Iterator[MicroBatch]:
        """One after the other, so that many examples are never in memory at once."""
        if not examples:
            return
        rank, world = rank_and_world()
        lengths = getattr(examples, "lengths", None)
        groups = micro_batches(
            [e.num_tokens for e in examples] if lengths is None else lengths.tolist(),
            world=world,
            max_rows=self.micro_batch_size,
            max_tokens=self.micro_batch_tokens,
            pass_tokens=PASS_TOKENS[device_of(self.model).type],
            is_packed=self.batching == "packed",
        )
        for group in groups:
            yield self._collate([examples[place] for place in group[rank]])

    def _collate(self, rows: Sequence[Encoded]) -> MicroBatch:
        config = self.model.config
        eos, pad = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        assert isinstance(eos, int) and isinstance(pad, int), (eos, pad)
        num_tokens = sum(row.num_tokens for row in rows)
        rows = rows or [Encoded((eos,), (eos,), (False,))]
        if self.batching == "packed":
            batch = pack(rows)
        else:
            batch = collate(
                rows,
                pad_token_id=pad,
                is_encoder_decoder=config.is_encoder_decoder,
                start_token_id=getattr(config, "decoder_start_token_id", None) or 0,
            )
        return MicroBatch(batch, num_supervised(batch), num_tokens)


def train_step(
    optimizer: torch.optim.Optimizer,
    examples: StepExamples,
    *,
    collator: Collator,
    alpha: float,
    clip_norm: float,
    most_loss: float = math.inf,
    wish: float = 0.0,
    gradients: Gradients = "unsharded",
) -> dict[str, float]:
    """Gradients, clipping, update. Raises StageError before the update if anything is not finite, or the loss
    is above `most_loss`. `wish` comes back as its sum over the workers."""
    started = time.perf_counter()
    optimizer.zero_grad()
    loss = accumulate_gradients(
        collator.model,
        *map(collator, examples),
        alpha=alpha,
        wish=wish,
        gradients=gradients,
        loss_chunk=collator.loss_chunk,
    )
    grad_norm = _clip(collator.model, clip_norm)
    if not (math.isfinite(loss.total) and math.isfinite(grad_norm)):
        raise StageError(
            f"the loss is {loss.total} and its gradient norm {grad_norm}; "
            "lower training.learning_rate, or set training.precision to float32"
        )
    if loss.total > most_loss:
        raise StageError(
            f"the loss is {loss.total:.3g}, and above {most_loss:.3g} training has diverged; lower "
            "training.learning_rate, raise warmup_fraction, or look at these examples"
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
        "num_places": loss.num_places,
        "wish": loss.wish,
        "padding_share": 1 - loss.num_tokens / loss.num_places,
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
    wish: float = 0.0,
    loss_chunk: int = 0,
    gradients: Gradients = "unsharded",
) -> StepLoss:
    """Add the gradient of the step's loss to `.grad`: the same for every split into micro-batches.

    One backward per micro-batch of any kind: less memory for activations than one backward of the sum.
    """
    device = device_of(model)
    kinds = (factual, counterfactual, rejected)
    *counts, num_tokens, num_places, wish = all_sum(
        [
            *(sum(micro_batch.num_supervised for micro_batch in kind) for kind in kinds),
            sum(micro_batch.num_tokens for kind in kinds for micro_batch in kind),
            sum(micro_batch.batch.num_places for kind in kinds for micro_batch in kind),
            wish,
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
        begin_backward(model, is_last=index == len(parts) - 1, gradients=gradients)
        batch = micro_batch.batch.to(device)
        loss_sum = batch_loss_sum(model, batch, is_rejected=kind == 2, chunk=loss_chunk)
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
        num_places=num_places,
        wish=wish,
    )


@torch.no_grad()
def evaluate(model: PreTrainedModel, micro_batches: Iterable[MicroBatch], *, loss_chunk: int = 0) -> float:
    """Token-mean cross entropy over the micro-batches of all workers."""
    model.eval()
    device = device_of(model)
    loss_sum, num_supervised = torch.zeros((), device=device), 0.0
    for micro_batch in micro_batches:
        loss_sum += batch_loss_sum(model, micro_batch.batch.to(device), chunk=loss_chunk)
        num_supervised += micro_batch.num_supervised
    reshard(model)
    total, count = all_sum([loss_sum, num_supervised], device)
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
