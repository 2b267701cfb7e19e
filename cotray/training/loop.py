"""The training loop. Every worker runs it; the model is already sharded (see fsdp.py)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.distributed.fsdp import FSDPModule

from cotray.errors import StageError
from cotray.models.loading import vocabulary_size
from cotray.models.sequences import Encoded
from cotray.training.batches import Batches
from cotray.training.checkpoint import Progress, TrainState, keep_as_best, learned, load
from cotray.training.fsdp import rank_and_world
from cotray.training.schedule import Schedule, build_schedule
from cotray.training.speed import StepSpeed
from cotray.training.step import Collator, MicroBatch, evaluate, seed_dropout, train_step

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from cotray.config import TrainingConfig

DIVERGED = 10
"""Times the loss of the first step, or of guessing."""

Report = Callable[[dict[str, float]], None]


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    batches: Batches,
    dev_examples: Sequence[Encoded],
    config: TrainingConfig,
    *,
    alpha: float,
    seed: int,
    report: Report,
    save_checkpoint: Callable[[TrainState], None],
    restore_from: str | Path | None,
    notice: Callable[[], object] = lambda: None,
) -> TrainState:
    """Train for config.epochs epochs, or until the dev loss no longer improves.

    Calls `report` on every worker after each step and each evaluation, and `save_checkpoint` after each epoch
    and every config.checkpoint_minutes. `restore_from` is a checkpoint folder; None starts at step 0.
    `notice` says on the first worker what is known of nodes that are about to go, None as long as nothing is;
    a checkpoint is also made when that changes.
    """
    rank, world = rank_and_world()
    assert world == 1 or isinstance(model, FSDPModule), "shard the model first"
    optimizer = torch.optim.AdamW(
        learned(model).values(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    state = TrainState(model, optimizer)
    if restore_from is not None:
        load(state, restore_from)
    progress = state.progress
    schedule = build_schedule(config, num_steps_per_epoch=batches.num_steps_per_epoch)
    collator = _collator(model, tokenizer, config)
    due, speed = _Due(config.checkpoint_minutes, notice), StepSpeed(model)

    while progress.step < schedule.num_steps and not progress.has_stopped:
        examples = batches(progress.step)
        for group in optimizer.param_groups:
            group["lr"] = schedule.learning_rate(progress.step)
        model.train()
        seed_dropout(seed, progress.step)
        # One worker decides for all, who hear of it with the step's token counts.
        is_due = rank == 0 and due()
        try:
            metrics = train_step(
                optimizer,
                examples,
                collator=collator,
                alpha=alpha,
                clip_norm=config.clip_norm,
                most_loss=_most_loss(progress, model),
                wish=float(is_due),
                gradients=config.gradients,
            )
        except StageError as error:
            names = ", ".join(row.id for kind in examples for row in kind)
            raise StageError(f"step {progress.step + 1} (examples {names[:500]}): {error}") from None
        is_wished = metrics.pop("wish") > 0
        metrics |= speed.of(metrics["num_tokens"], metrics["step_s"])
        metrics["learning_rate"] = optimizer.param_groups[0]["lr"]
        progress.step += 1
        progress.first_loss = metrics["loss"] if progress.first_loss is None else progress.first_loss
        _add(progress, metrics)
        report({**_position(progress, batches, schedule), **metrics})

        is_epoch_over = progress.step % batches.num_steps_per_epoch == 0
        if is_epoch_over:
            row = {**_position(progress, batches, schedule), **_summary(progress, metrics)}
            if dev_examples:
                row |= _evaluate_epoch(state, collator.each(dev_examples), config, schedule)
                report({name: row[name] for name in ("step", "num_steps", "epoch", "dev_loss")})
            progress.history.append(row)
            progress.sums, progress.num_summed = {}, 0
        if is_epoch_over or is_wished:
            save_checkpoint(state)
            due.restart()
    return state


def _collator(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: TrainingConfig) -> Collator:
    return Collator(
        model,
        tokenizer,
        config.micro_batch_size,
        config.micro_batch_tokens,
        config.batching,
        config.loss_chunk,
    )


class _Due:
    """Whether a checkpoint is to be made after the next step."""

    def __init__(self, minutes: float, notice: Callable[[], object]) -> None:
        self.minutes, self.notice = minutes, notice
        self.noticed: object = None
        self.restart()

    def restart(self) -> None:
        self.saved = time.monotonic()

    def __call__(self) -> bool:
        before, self.noticed = self.noticed, self.notice()
        return time.monotonic() - self.saved > 60 * self.minutes or self.noticed != before


def _most_loss(progress: Progress, model: PreTrainedModel) -> float:
    """Above which training has diverged: far worse than at its start, and than guessing all words alike."""
    guessing = math.log(vocabulary_size(model))
    return DIVERGED * max(progress.first_loss or guessing, guessing)


def _evaluate_epoch(
    state: TrainState, dev_batches: Iterable[MicroBatch], config: TrainingConfig, schedule: Schedule
) -> dict[str, float]:
    """Dev loss, best weights, and SCOTT's rule of early stopping."""
    progress = state.progress
    dev_loss = evaluate(state.model, dev_batches, loss_chunk=config.loss_chunk)
    if not math.isfinite(dev_loss):
        raise StageError(f"step {progress.step}: the dev loss is {dev_loss}; lower training.learning_rate")
    if progress.best_dev_loss is None or dev_loss < progress.best_dev_loss:
        progress.best_dev_loss = dev_loss
        progress.num_epochs_without_improvement = 0
        keep_as_best(state)
    else:
        progress.num_epochs_without_improvement += 1
        is_out_of_patience = progress.num_epochs_without_improvement > config.patience
        progress.has_stopped = is_out_of_patience and progress.step > schedule.num_warmup_steps
    return {"dev_loss": dev_loss}


def _position(progress: Progress, batches: Batches, schedule: Schedule) -> dict[str, float]:
    """Steps and epochs are counted from 1 in metrics."""
    epoch = (progress.step - 1) // batches.num_steps_per_epoch + 1
    return {"step": progress.step, "num_steps": schedule.num_steps, "epoch": epoch}


MEANS = ("loss", "loss_factual", "loss_counterfactual", "loss_rejected", "grad_norm")
SUMS = ("num_tokens", "num_places", "step_s")


def _add(progress: Progress, metrics: dict[str, float]) -> None:
    for name in (*MEANS, *SUMS):
        if name in metrics:
            progress.sums[name] = progress.sums.get(name, 0.0) + metrics[name]
    progress.num_summed += 1


def _summary(progress: Progress, last: dict[str, float]) -> dict[str, float]:
    """Means of an epoch's losses, its tokens, seconds and rate."""
    sums = progress.sums
    return {
        **{name: sums[name] / progress.num_summed for name in MEANS if name in sums},
        "learning_rate": last["learning_rate"],
        "num_tokens": sums["num_tokens"],
        "padding_share": 1 - sums["num_tokens"] / sums["num_places"],
        "train_s": sums["step_s"],
        "tokens_per_s": sums["num_tokens"] / sums["step_s"],
    }
