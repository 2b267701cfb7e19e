"""Models and tokenizers read from their files, in the type and on the device they are to compute with.

torch and transformers are imported inside the functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cotray.errors import ConfigError
from cotray.models.locations import model_path

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_tokenizer(name: str, *, revision: str = "main") -> PreTrainedTokenizerBase:
    """The model's fast tokenizer, with a padding token."""
    from transformers import AutoTokenizer

    tokenizer = _from_hub(AutoTokenizer, name, revision=revision)
    if not tokenizer.is_fast:
        raise ConfigError(f"model '{name}': has no fast tokenizer, which cotray needs for offsets")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    name: str, *, revision: str = "main", dtype: torch.dtype, num_layers: int = 0
) -> PreTrainedModel:
    """A causal or encoder-decoder language model, in eval mode, on the CPU.

    `num_layers` keeps that many evenly spaced layers (of each stack), the first and last included.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    config = _from_hub(AutoConfig, name, revision=revision)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = _from_hub(auto, name, revision=revision, dtype=dtype, use_safetensors=True)
    if num_layers:
        keep_layers(model, num_layers)
    return model.eval()


def count_parameters(name: str, *, revision: str = "main") -> int:
    """Of a decoder-only model, from its configuration alone, without weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = _from_hub(AutoConfig, name, revision=revision)
    if config.is_encoder_decoder:
        raise ConfigError(f"model '{name}': is an encoder-decoder; this needs a decoder-only model")
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config).num_parameters()


def load_for_inference(
    name: str, *, revision: str = "main", dtype: str = "auto"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer, the model on the accelerator if there is one."""
    from cotray.models.cpu_attention import share_keys_among_heads
    from cotray.models.cpu_linear import pack_linear_layers

    device, torch_dtype = device_and_dtype(dtype)
    tokenizer = load_tokenizer(name, revision=revision)
    model: Any = load_model(name, revision=revision, dtype=torch_dtype)
    if device.type == "cpu":
        share_keys_among_heads(model)
        pack_linear_layers(model)
    return model.to(device), tokenizer


def keep_layers(model: PreTrainedModel, num_layers: int) -> None:
    """Drop all but `num_layers` evenly spaced layers of every stack of `model`, in place."""
    import torch

    for stack in layer_stacks(model):
        if num_layers > len(stack):
            raise ConfigError(f"num_layers={num_layers}: the model has only {len(stack)}")
        kept = torch.linspace(0, len(stack) - 1, num_layers).round().int().tolist()
        layers = [stack[index] for index in kept]
        del stack[:]
        stack.extend(layers)
        for index, layer in enumerate(layers):
            for module in layer.modules():
                if getattr(module, "layer_idx", None) is not None:
                    module.layer_idx = index
    config = model.config
    for attribute in ("num_hidden_layers", "num_layers", "num_decoder_layers", "n_layer"):
        if getattr(config, attribute, None) is not None:
            setattr(config, attribute, num_layers)
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:num_layers]


def layer_stacks(model: PreTrainedModel) -> list[Any]:
    """The ModuleLists of transformer blocks: one for decoder-only models, two for encoder-decoders."""
    import torch

    stacks = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    return [stack for stack in stacks if type(stack[0]).__name__ in (model._no_split_modules or ())]


def device_and_dtype(dtype: str) -> tuple[torch.device, torch.dtype]:
    """For inference: the accelerator if there is one, and bfloat16 there unless told otherwise.

    CPUs stay with float32, so that results do not depend on how rows are batched.
    """
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    is_exact = dtype == "auto" and device.type == "cpu"
    return device, compute_dtype("float32" if is_exact else dtype, device.type)


def compute_dtype(dtype: str, device_type: str) -> torch.dtype:
    """`auto`: bfloat16 where the device computes it natively (most GPUs, recent CPUs), else float32."""
    import torch

    if dtype != "auto":
        return getattr(torch, dtype)
    if device_type == "cuda":
        is_native = torch.cuda.is_bf16_supported()
    else:
        is_native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if is_native else torch.float32


def _from_hub(auto: Any, name: str, **kwargs: Any) -> Any:
    from transformers.utils import logging

    logging.disable_progress_bar()
    path = model_path(name)
    try:
        return auto.from_pretrained(path, **kwargs)
    except OSError as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"model '{name}': cannot be loaded ({reason}). Give a folder, or an id that can be reached."
        ) from None
