"""LoRA by PEFT: low-rank weights beside the model's linear layers, and the only ones that are learned.

The model stays of its own class, with PEFT's layers inside, so that it is sharded, trained and evaluated like
any other.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.tensor import DTensor

from cotray.errors import ConfigError
from cotray.models.loading import layer_stacks
from cotray.seeds import digest
from cotray.training.four_bits import forget_quantization

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from cotray.config.adapter import AdapterConfig

FOLDER = "adapter"
"""Of an exported model, with the weights of the adapter alone."""
NAME = "default"
"""PEFT's, of an adapter that has no other."""


def add_adapter(model: PreTrainedModel, adapter: AdapterConfig, *, base: str, revision: str) -> None:
    """Put the adapter's layers into the model, without values, and freeze all other weights.

    `base` and `revision` name the model in the adapter's files. Raises ConfigError for unknown targets.
    """
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,  # type: ignore[arg-type]
        target_modules=_targets(model, adapter),
        base_model_name_or_path=base,
        revision=revision,
        task_type="SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM",
        fan_in_fan_out=_is_transposed(model),
    )
    inject_adapter_in_model(config, model, NAME, low_cpu_mem_usage=True)
    forget_quantization(model)


def initial_weights(seed: int, name: str, shape: torch.Size) -> torch.Tensor:
    """Of A as a linear layer's own, of B zero (Hu et al. 2022), whatever the number of workers."""
    weights = torch.zeros(shape)
    if ".lora_A." in name:
        generator = torch.Generator().manual_seed(digest(seed, "adapter", name))
        torch.nn.init.kaiming_uniform_(weights, a=math.sqrt(5), generator=generator)
    return weights


def has_adapter(model: PreTrainedModel) -> bool:
    return hasattr(model, "peft_config")


def is_of_adapter(name: str) -> bool:
    return ".lora_" in name


def plain_name(name: str) -> str:
    """Of a weight in the model without its adapter."""
    return name.replace(".base_layer.", ".")


def change_of(model: PreTrainedModel, name: str) -> torch.Tensor | None:
    """What merging adds to the weight of that name, whole; None where nothing. All workers must call it."""
    path, _, kind = name.rpartition(".base_layer.")
    if kind != "weight":
        return None
    layer: Any = model.get_submodule(path)
    low, high = (_whole(part[NAME].weight) for part in (layer.lora_A, layer.lora_B))
    change = layer.scaling[NAME] * (high @ low)
    return change.T if layer.fan_in_fan_out else change


def save_adapter(model: PreTrainedModel, weights: dict[str, torch.Tensor], folder: str | Path) -> None:
    """The adapter's whole weights, by their names in the model, as PEFT's from_pretrained reads them."""
    from safetensors.torch import save_file

    target = Path(folder, FOLDER)
    target.mkdir(parents=True)
    names = {f"base_model.model.{name.replace(f'.{NAME}.', '.')}": weights[name] for name in weights}
    save_file(names, target / "adapter_model.safetensors", metadata={"format": "pt"})
    config: Any = copy.copy(model.peft_config[NAME])  # type: ignore[index]
    config.target_modules = sorted(config.target_modules)  # of a set, in whose order files would differ
    config.inference_mode = True
    config.save_pretrained(target)


def _targets(model: PreTrainedModel, adapter: AdapterConfig) -> list[str]:
    linear = sorted(
        {path.rpartition(".")[2] for path, module in _modules_of_blocks(model) if _is_linear(module)}
    )
    if adapter.targets == "all-linear":
        return linear
    if unknown := sorted(set(adapter.targets) - set(linear)):
        raise ConfigError(
            f"student.adapter.targets: {', '.join(unknown)}: no linear layers of the blocks of "
            f"{type(model).__name__}, which are {', '.join(linear)}; or set it to all-linear"
        )
    return sorted(set(adapter.targets))


def _modules_of_blocks(model: PreTrainedModel) -> list[tuple[str, torch.nn.Module]]:
    return [pair for stack in layer_stacks(model) for pair in stack.named_modules()]


def _is_linear(module: torch.nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, (torch.nn.Linear, Conv1D))


def _is_transposed(model: PreTrainedModel) -> bool:
    """GPT-2's linear layers keep their weights so."""
    from transformers.pytorch_utils import Conv1D

    return any(isinstance(module, Conv1D) for _, module in _modules_of_blocks(model))


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()
