"""What is done to the blocks of a model from outside: the results stay the same beyond rounding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cotray.errors import ConfigError
from cotray.models.loading import layer_stacks

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from cotray.config import TrainingConfig


def change_blocks(training: TrainingConfig, model: PreTrainedModel) -> None:
    """As the section `training` says; to be called before the model is sharded."""
    if training.activations == "recomputed":
        recompute_activations(model)
    if training.compile == "blocks":
        compile_blocks(model)


def recompute_activations(model: PreTrainedModel) -> None:
    """Keep what enters each block alone, and compute the rest again when the backward pass needs it."""
    if not model.supports_gradient_checkpointing:
        raise ConfigError(
            f"activations=recomputed: {type(model).__name__} cannot. Set training.activations to kept, and "
            "lower micro_batch_size or max_length if memory is short"
        )
    without_reentry = {"use_reentrant": False}
    newer: Any = model
    if hasattr(model, "activation_checkpointing_enable"):  # in transformers 5.24
        newer.activation_checkpointing_enable(activation_checkpointing_kwargs=without_reentry)
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=without_reentry)


def compile_blocks(model: PreTrainedModel, *, backend: str = "inductor") -> None:
    """Each block by itself, when it first computes: blocks of one kind share what was compiled."""
    for stack in layer_stacks(model):
        for block in stack:
            block.compile(backend=backend)
