"""FSDP2 from outside the model, and the two collectives that training needs besides it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)

from cotray.errors import ConfigError
from cotray.models.loading import compute_dtype, layer_stacks
from cotray.training.four_bits import is_in_four_bits

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from cotray.config import Dtype

Gradients = Literal["unsharded", "sharded"]
Sharding = Literal["full", "hybrid"]
Offload = Literal["off", "cpu"]


def rank_and_world() -> tuple[int, int]:
    """This worker's rank and the number of workers; (0, 1) without a process group."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def all_sum(values: Sequence[float | torch.Tensor], device: torch.device) -> list[float]:
    """Each value summed over the workers, in float64."""
    totals = torch.stack([torch.as_tensor(value, dtype=torch.float64, device=device) for value in values])
    if dist.is_initialized():
        dist.all_reduce(totals)
    return totals.tolist()


def device_of(model: PreTrainedModel) -> torch.device:
    """Where the model computes; its weights may wait in host memory."""
    return torch.device("cuda", torch.cuda.current_device()) if _has_gpus() else model.device


def _has_gpus() -> bool:
    return dist.is_initialized() and "nccl" in dist.get_backend()


def mesh_of_workers(sharding: Sharding = "full") -> DeviceMesh:
    """All workers in a row, with a GPU each where they talk over nccl; `hybrid`: in a row for each node.

    Raises ConfigError where `hybrid` meets nodes with different numbers of workers.
    """
    device_type = "cuda" if _has_gpus() else "cpu"
    world = dist.get_world_size()
    if sharding == "full":
        return init_device_mesh(device_type, (world,))
    # Ray Train and torchrun set it, and number the workers node by node.
    on_node = int(os.environ["LOCAL_WORLD_SIZE"])
    total, squares = all_sum([on_node, on_node**2], torch.device(device_type))
    if total != world * on_node or squares != world * on_node**2:
        raise ConfigError(
            f"training.sharding=hybrid: one node has {on_node} of {world} workers, and others not as many; "
            "set training.sharding to full, or num_workers to a multiple of the GPUs of a node"
        )
    return init_device_mesh(device_type, (world // on_node, on_node), mesh_dim_names=("nodes", "workers"))


def is_whole() -> bool:
    """Whether a model is left whole: without a process group, and for a single worker on CPUs, where FSDP
    would copy weights and gradients for nobody."""
    return not dist.is_initialized() or (dist.get_world_size() == 1 and not _has_gpus())


def shard(
    model: PreTrainedModel, precision: Dtype, *, sharding: Sharding = "full", offload: Offload = "off"
) -> None:
    """Move the model to its device and shard it over all workers, block by block, in place.

    Weights, gradients and optimizer stay float32; bfloat16 is the type of the computation. With `offload`
    they stay in host memory. Of a model in 4 bits only what is learned is sharded. Without a process group
    the model is left whole, in float32, and with a single worker on CPUs whole too.
    """
    if not dist.is_initialized():
        return
    device_type = "cuda" if _has_gpus() else "cpu"
    dtype = compute_dtype(precision, device_type)
    if is_whole():
        if dtype != torch.float32:
            model.forward = torch.autocast("cpu", dtype)(model.forward)
        return
    policy = MixedPrecisionPolicy()
    if dtype != torch.float32:
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    is_offloaded = offload == "cpu"
    options: dict[str, Any] = {
        "mesh": mesh_of_workers(sharding),
        "mp_policy": policy,
        "offload_policy": CPUOffloadPolicy(pin_memory=_has_gpus()) if is_offloaded else OffloadPolicy(),
    }
    if any(map(is_in_four_bits, model.parameters())):
        options["ignored_params"] = {p for p in model.parameters() if not p.requires_grad}
    # Gathering weights is what a step costs over gloo, and host memory has room for them: on CPUs they
    # stay whole from a step's first forward to its last backward, on GPUs for one block at a time.
    reshards = device_type == "cuda"
    for stack in layer_stacks(model):
        for block in stack:
            # Backward would gather the last block again at once: keep it whole after forward.
            is_last = block is stack[-1]
            fully_shard(block, reshard_after_forward=reshards and not is_last, **options)
    fully_shard(model, **options)


def begin_backward(model: PreTrainedModel, *, is_last: bool, gradients: Gradients = "unsharded") -> None:
    """To be called before each forward of a step: gradients add up until its last backward, locally or,
    sharded, over all workers at once."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(is_last or gradients == "sharded")
        model.set_requires_all_reduce(is_last)  # between nodes, once a step
        if not _has_gpus():
            model.set_reshard_after_backward(is_last)


def reshard(model: PreTrainedModel) -> None:
    """Give up whole weights that a forward without backward has left behind."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
