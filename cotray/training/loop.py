"""The training loop. Every worker runs it; the model is already sharded (see fsdp.py)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.distributed.fsdp import FSDPModule

from cotray.errors import StageError
from cotray.records import TrainExample
from cotray.training.batches import Batches
from cotray.training.checkpoint import Progress, TrainState, keep_as_best, load
from cotray.training.fsdp import rank_and_world
from cotray.training.schedule import Schedule, build_schedule
from cotray.training.step import Collator, MicroBatch, evaluate, seed_dropout, train_step

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from cotray.config import TrainingConfig

Report = Callable[[dict[str, float]], None]


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    batches: Batches,
    dev_examples: Sequence[TrainExample],
    config: TrainingConfig,
    *,
    alpha: float,
    seed: int,
    report: Report,
    save_checkpoint: Callable[[TrainState], None],
    restore_from: str | Path | None,
) -> TrainState:
    """Train for config.epochs epochs, or until the dev loss no longer improves.

    Calls `report` on every worker after each step and each evaluation, and `save_checkpoint` after
    each epoch. `restore_from` is a checkpoint folder; None starts at step 0.
    """
    assert rank_and_world()[1] == 1 or isinstance(model, FSDPModule), "shard the model first"
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    state = TrainState(model, optimizer)
    if restore_from is not None:
        load(state, restore_from)
    progress = state.progress
    schedule = build_schedule(config, num_steps_per_epoch=batches.num_steps_per_epoch)
    collator = Collator(model, tokenizer, config.micro_batch_size)
    dev_batches = collator(dev_examples)
    epoch_metrics: list[dict[str, float]] = []

    while progress.step < schedule.num_steps and not progress.has_stopped:
        examples = batches(progress.step)
        for group in optimizer.param_groups:
            group["lr"] = schedule.learning_rate(progress.step)
        model.train()
        seed_dropout(seed, progress.step)
        try:
            metrics = train_step(
                optimizer, examples, collator=collator, alpha=alpha, clip_norm=config.clip_norm
            )
        except StageError as error:
            raise StageError(f"step {progress.step + 1}: {error}") from None
        metrics["learning_rate"] = optimizer.param_groups[0]["lr"]
        progress.step += 1
        epoch_metrics.append(metrics)
        report({**_position(progress, batches, schedule), **metrics})

        if progress.step % batches.num_steps_per_epoch == 0:
            row = {**_position(progress, batches, schedule), **_summary(epoch_metrics)}
            if dev_batches:
                row |= _evaluate_epoch(state, dev_batches, config, schedule)
                report({name: row[name] for name in ("step", "num_steps", "epoch", "dev_loss")})
            progress.history.append(row)
            epoch_metrics = []
            save_checkpoint(state)
    return state


def _evaluate_epoch(
    state: TrainState, dev_batches: Sequence[MicroBatch], config: TrainingConfig, schedule: Schedule
) -> dict[str, float]:
    """Dev loss, best weights, and SCOTT's rule of early stopping."""
    progress = state.progress
    dev_loss = evaluate(state.model, dev_batches)
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


def _summary(steps: Sequence[dict[str, float]]) -> dict[str, float]:
    """Means of an epoch's losses, its tokens, seconds and rate."""
    losses = ("loss", "loss_factual", "loss_counterfactual", "loss_rejected", "grad_norm")
    names = [name for name in losses if name in steps[0]]
    means = {name: sum(step[name] for step in steps) / len(steps) for name in names}
    num_tokens = sum(step["num_tokens"] for step in steps)
    seconds = sum(step["step_s"] for step in steps)
    return {
        **means,
        "learning_rate": steps[-1]["learning_rate"],
        "num_tokens": num_tokens,
        "train_s": seconds,
        "tokens_per_s": num_tokens / seconds,
    }
