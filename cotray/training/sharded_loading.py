"""A model for training, of which each worker reads its own shards alone from the safetensors.

The weights are made on the meta device. transformers reads them, with the renames, conversions and checks
that it has for every architecture, into tensors that are laid out as FSDP will have them, of which it reads
this worker's rows. The model is then shortened, given its adapter and sharded without weights, and filled
last: a worker holds its shards and hardly more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from cotray.models.loading import keep_layers, read_model
from cotray.training.adapter import add_adapter, initial_weights, is_of_adapter
from cotray.training.four_bits import read_in_four_bits
from cotray.training.fsdp import Offload, Sharding, is_whole, mesh_of_workers, shard

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from cotray.config import Dtype
    from cotray.config.adapter import AdapterConfig

Shards = dict[tuple[torch.nn.Module, str], torch.Tensor]
"""Weights by the module that has them and their name in it."""

ROWS = (Shard(0),)
"""How FSDP places every weight: each worker has as many rows as the others, the last ones fewer; with hybrid
sharding those of a node, and every node the same."""


def load_for_training(
    name: str,
    *,
    revision: str = "main",
    num_layers: int = 0,
    precision: Dtype,
    sharding: Sharding = "full",
    offload: Offload = "off",
    adapter: AdapterConfig | None = None,
    seed: int = 0,
    change: Callable[[PreTrainedModel], None] = lambda model: None,
) -> PreTrainedModel:
    """The model in float32, sharded over all workers and on their devices (with `offload` in their hosts'
    memory); whole where `is_whole` says so.

    With an adapter its weights alone are to be learned, and begin as `seed` says; with QLoRA's only they are
    sharded, and every worker has the others whole, in 4 bits. Raises ConfigError as
    load_model does, and for an adapter that does not fit. `change` gets the model before it is sharded,
    perhaps without weights.
    """
    shards: Shards = {}
    if adapter and adapter.kind == "qlora":
        model = read_in_four_bits(name, revision=revision, precision=precision)
    elif not is_whole():
        model, shards = _read_shards(name, revision, mesh_of_workers(sharding))
    else:
        model = read_model(name, revision=revision, dtype=torch.float32)
    if num_layers:
        keep_layers(model, num_layers)
    if adapter:
        add_adapter(model, adapter, base=name, revision=revision)
    change(model)
    shard(model, precision, sharding=sharding, offload=offload)
    _fill(shards, offload)
    for path, module in model.named_modules():
        for key, parameter in module._parameters.items():
            if parameter is not None and is_of_adapter(f"{path}.{key}"):
                _begin(module, key, initial_weights(seed, f"{path}.{key}", parameter.shape), offload)
    return model.eval()


def _read_shards(name: str, revision: str, mesh: DeviceMesh) -> tuple[PreTrainedModel, Shards]:
    """The model without weights, but with its buffers, and this worker's rows of each in host memory."""
    mesh = mesh["workers"] if mesh.ndim > 1 else mesh
    model = read_model(
        name, revision=revision, dtype=torch.float32, lay_out=lambda model: _lay_out(model, mesh)
    )
    shards: Shards = {}
    without: dict[int, torch.nn.Parameter] = {}  # tied weights stay one
    for module in model.modules():
        for key, loaded in module._parameters.items():
            if loaded is None:
                continue
            empty = torch.empty(loaded.shape, dtype=loaded.dtype, device="meta")
            without.setdefault(id(loaded), torch.nn.Parameter(empty, requires_grad=loaded.requires_grad))
            shards[module, key] = loaded
    for (module, key), loaded in shards.items():
        module._parameters[key] = without[id(loaded)]
    return model, shards


def _lay_out(model: PreTrainedModel, mesh: DeviceMesh) -> None:
    """Replace each weight on the meta device by a sharded one, but those that can only be read whole."""
    is_whole = _read_whole(model)
    sharded: dict[int, torch.nn.Parameter] = {}
    for path, module in model.named_modules():
        for key, parameter in module._parameters.items():
            if parameter is None or is_whole(f"{path}.{key}"):
                continue
            if id(parameter) not in sharded:
                local_shape, _ = compute_local_shape_and_global_offset(parameter.shape, mesh, ROWS)
                local = torch.empty(local_shape, dtype=parameter.dtype, device="meta")
                tensor = DTensor.from_local(
                    local, mesh, ROWS, run_check=False, shape=parameter.shape, stride=parameter.stride()
                )
                sharded[id(parameter)] = torch.nn.Parameter(tensor, requires_grad=parameter.requires_grad)
            module._parameters[key] = sharded[id(parameter)]


def _read_whole(model: PreTrainedModel) -> Callable[[str], bool]:
    """Which weights are computed from several of the file in a way that rows do not allow.

    Experts that become one tensor of all experts, and are joined within each, can be read by rows.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import (
        Concatenate,
        MergeModulelist,
        WeightConverter,
        build_glob_alternation,
    )

    def by_rows(operation: Any) -> bool:
        return isinstance(operation, MergeModulelist) or (
            type(operation) is Concatenate and operation.dim > 0
        )

    patterns: list[Any] = [
        pattern
        for converter in get_model_conversion_mapping(model)
        if isinstance(converter, WeightConverter) and not all(map(by_rows, converter.operations))
        for pattern in converter.target_patterns
    ]
    if not patterns:
        return lambda name: False
    alternation, _, _ = build_glob_alternation(patterns)
    return lambda name: alternation.search(name) is not None


def _fill(shards: Shards, offload: Offload) -> None:
    """Give the sharded model its weights; of layers that were dropped they are forgotten."""
    filled: dict[int, torch.nn.Parameter] = {}
    keys = {pair: id(loaded) for pair, loaded in shards.items()}
    for pair, key in keys.items():
        module, name = pair
        loaded, target = shards.pop(pair), module._parameters[name]
        if not isinstance(target, DTensor):
            continue
        if key in filled:
            module._parameters[name] = filled[key]
            continue
        rows = loaded.to_local() if isinstance(loaded, DTensor) else _rows(loaded, target)
        filled[key] = _set_rows(module, name, rows, offload)


def _begin(module: torch.nn.Module, name: str, whole: torch.Tensor, offload: Offload) -> None:
    """Give a weight without values those of a tensor that every worker has."""
    target = module._parameters[name]
    if isinstance(target, DTensor):
        _set_rows(module, name, _rows(whole, target), offload)
    else:
        module._parameters[name] = torch.nn.Parameter(whole)


def _set_rows(module: torch.nn.Module, name: str, rows: torch.Tensor, offload: Offload) -> torch.nn.Parameter:
    target = module._parameters[name]
    assert isinstance(target, DTensor) and target.placements[-1:] == ROWS, name
    device = "cpu" if offload == "cpu" else target.device_mesh.device_type
    # A copy: what was read may be a view of the file.
    tensor: Any = torch.empty_like(target, device=device)
    with torch.no_grad():
        tensor.to_local().copy_(rows)
    parameter = torch.nn.Parameter(tensor, requires_grad=target.requires_grad)
    module._parameters[name] = parameter
    return parameter


def _rows(whole: torch.Tensor, target: DTensor) -> torch.Tensor:
    """This worker's."""
    shape, offset = compute_local_shape_and_global_offset(whole.shape, target.device_mesh, target.placements)
    return whole.detach()[offset[0] : offset[0] + shape[0]]
