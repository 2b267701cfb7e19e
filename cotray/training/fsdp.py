"""FSDP2 from outside the model, and the two collectives that training needs besides it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from cotray.models.loading import compute_dtype, layer_stacks

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from cotray.config import Dtype


def rank_and_world() -> tuple[int, int]:
    """This worker's rank and the number of workers; (0, 1) without a process group."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def all_sum(values: Sequence[float | torch.Tensor], device: torch.device) -> list[float]:
    """Each value summed over the workers, in float64."""
    totals = torch.stack([torch.as_tensor(value, dtype=torch.float64, device=device) for value in values])
    if dist.is_initialized():
        dist.all_reduce(totals)
    return totals.tolist()


def shard(model: PreTrainedModel, precision: Dtype) -> None:
    """Move the model to its device and shard it over all workers, block by block, in place.

    Weights, gradients and optimizer stay float32; bfloat16 is the type of the computation. Without a
    process group the model is left whole, in float32.
    """
    if not dist.is_initialized():
        return
    device_type = "cuda" if "nccl" in dist.get_backend() else "cpu"
    dtype = compute_dtype(precision, device_type)
    mesh = init_device_mesh(device_type, (dist.get_world_size(),))
    policy = MixedPrecisionPolicy()
    if dtype != torch.float32:
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    # Gathering weights is what a step costs over gloo, and host memory has room for them: on CPUs they
    # stay whole from a step's first forward to its last backward, on GPUs for one block at a time.
    reshards = device_type == "cuda"
    for stack in layer_stacks(model):
        for block in stack:
            # Backward would gather the last block again at once: keep it whole after forward.
            is_last = block is stack[-1]
            fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=reshards and not is_last)
    fully_shard(model, mesh=mesh, mp_policy=policy)


def begin_backward(model: PreTrainedModel, *, is_last: bool) -> None:
    """To be called before each forward of a step: gradients add up locally until its last backward."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(is_last)
        if model.device.type == "cpu":
            model.set_reshard_after_backward(is_last)


def reshard(model: PreTrainedModel) -> None:
    """Give up whole weights that a forward without backward has left behind."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
