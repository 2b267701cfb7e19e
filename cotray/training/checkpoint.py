"""The state of a training run, on disk: sharded checkpoints to resume from.

A checkpoint is a folder: `progress.json` of rank 0 beside the tensors in torch.distributed.checkpoint
format, of which each worker writes its own shards; another number of workers can read it. When the
workers write to folders of their own, the union of the folders is the checkpoint.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.tensor import DTensor

from cotray.training.fsdp import rank_and_world

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass
class Progress:
    """How far training has come; `history` has one flat row of metrics per finished epoch.

    `sums` are of the metrics of the unfinished epoch's `num_summed` steps, `first_loss` is that of step 1.
    """

    step: int = 0
    first_loss: float | None = None
    sums: dict[str, float] = field(default_factory=dict)
    num_summed: int = 0
    best_dev_loss: float | None = None
    num_epochs_without_improvement: int = 0
    has_stopped: bool = False
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass
class TrainState:
    """Everything that a step changes. `best` holds this worker's shards on the CPU.

    `best` is None until the first dev evaluation, and throughout when there are no dev examples.
    """

    model: PreTrainedModel
    optimizer: torch.optim.AdamW
    progress: Progress = field(default_factory=Progress)
    best: dict[str, torch.Tensor] | None = None


def keep_as_best(state: TrainState) -> None:
    state.best = {name: tensor.detach().cpu().clone() for name, tensor in _changing(state.model).items()}


def restore_best(state: TrainState) -> None:
    """Put the best weights into the model; the last ones are the best without dev examples."""
    if state.best is None:
        return
    with torch.no_grad():
        for name, tensor in _changing(state.model).items():
            _local(tensor).copy_(_local(state.best[name]))


def save(state: TrainState, folder: str | Path) -> None:
    """Write a checkpoint; every worker must call this."""
    if rank_and_world()[0] == 0:
        text = json.dumps({**dataclasses.asdict(state.progress), "has_best": state.best is not None})
        Path(folder, "progress.json").write_text(text, encoding="utf-8")
    dcp.save(_tensors(state), checkpoint_id=str(folder), no_dist=not dist.is_initialized())


def load(state: TrainState, folder: str | Path) -> None:
    """Read a checkpoint into an existing state, in place; every worker must call this."""
    values = json.loads(Path(folder, "progress.json").read_text(encoding="utf-8"))
    if values.pop("has_best"):
        keep_as_best(state)  # allocates the tensors that are then read into
    dcp.load(_tensors(state), checkpoint_id=str(folder), no_dist=not dist.is_initialized())
    state.progress = Progress(**values)


def weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Parameters and persistent buffers by name; tied weights appear once, under their first name."""
    seen: dict[int, str] = {}
    # Of weights in 4 bits the state dict has also what bitsandbytes needs to read them.
    own = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    own |= {name for name, _ in model.named_buffers(remove_duplicate=False)}
    tensors = {name: value for name, value in model.state_dict(keep_vars=True).items() if name in own}
    return {name: tensor for name, tensor in tensors.items() if seen.setdefault(id(tensor), name) == name}


def learned(model: PreTrainedModel) -> dict[str, torch.nn.Parameter]:
    """The parameters that training changes, by name: all, or an adapter's."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _changing(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """What a checkpoint must have: the frozen weights are in the files of the model."""
    return {
        name: tensor
        for name, tensor in weights(model).items()
        if tensor.requires_grad or not isinstance(tensor, torch.nn.Parameter)
    }


def _tensors(state: TrainState) -> dict[str, Any]:
    tensors: dict[str, Any] = {
        "model": {name: tensor.detach() for name, tensor in _changing(state.model).items()},
        "optimizer": {
            name: _moments(state.optimizer, parameter) for name, parameter in learned(state.model).items()
        },
    }
    return tensors if state.best is None else {**tensors, "best": state.best}


def _moments(optimizer: torch.optim.AdamW, parameter: torch.nn.Parameter) -> dict[str, torch.Tensor]:
    """AdamW's state of one parameter, as AdamW itself initialises it before the first step."""
    if not optimizer.state[parameter]:
        optimizer.state[parameter] = {
            "step": torch.tensor(0.0),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return optimizer.state[parameter]


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
