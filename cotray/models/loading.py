"""Models and tokenizers read from their files, in the type and on the device they are to compute with.

torch and transformers are imported inside the functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from cotray.errors import ConfigError
from cotray.models.locations import model_path
from cotray.models.tokenizers import prepared

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


NUMBERS_OF_LAYERS = {
    "num_hidden_layers",
    "num_layers",
    "num_decoder_layers",
    "encoder_layers",
    "decoder_layers",
    "n_layer",
}
LISTS_OF_LAYERS = {"layer_types", "no_rope_layers", "mlp_layer_types", "layers_block_type", "attn_layers"}
"""Keys of configurations that describe each layer."""


def load_tokenizer(name: str, *, revision: str = "main") -> PreTrainedTokenizerBase:
    """The model's fast tokenizer, with a padding token; one of a decoder-only model ends no text."""
    from transformers import AutoConfig, AutoTokenizer

    config = _from_hub(AutoConfig, name, revision=revision)
    tokenizer = _from_hub(AutoTokenizer, name, revision=revision)
    return prepared(tokenizer, name, is_encoder_decoder=config.is_encoder_decoder)


def load_model(
    name: str, *, revision: str = "main", dtype: torch.dtype, num_layers: int = 0
) -> PreTrainedModel:
    """A causal or encoder-decoder language model, in eval mode, on the CPU.

    `num_layers` keeps that many evenly spaced layers (of each stack), the first and last included.
    """
    model = read_model(name, revision=revision, dtype=dtype)
    if num_layers:
        keep_layers(model, num_layers)
    return model.eval()


def read_model(
    name: str,
    *,
    revision: str = "main",
    dtype: torch.dtype,
    lay_out: Callable[[PreTrainedModel], None] | None = None,
    quantization: Mapping[str, Any] | None = None,
) -> PreTrainedModel:
    """A model with all of its layers, as transformers reads it.

    `quantization`: how weights are quantised and on which device, as arguments of from_pretrained. `lay_out`
    gets the model on the meta device before its weights are read, and may replace them by DTensors:
    transformers then reads this worker's part of each. Raises ConfigError where weights are lacking, on every
    worker if on one.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    config = _from_hub(AutoConfig, name, revision=revision)
    auto: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    # Weights of another size are told of below, with those that are missing.
    options = {"revision": revision, "dtype": dtype, "use_safetensors": True, "output_loading_info": True}
    options |= {"ignore_mismatched_sizes": True, **(quantization or {})}
    if lay_out is None:
        model, report = _from_hub(auto, name, **options)
    else:
        with torch.device("meta"):
            kind = type(auto.from_config(config))
        model, report = _from_hub(_laid_out(kind, lay_out), name, **options, distributed_config={})
        model.__class__ = kind
        del model.config.distributed_config
    lost = {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}
    if lost := sorted(_of_all_workers(lost) if lay_out else lost):
        raise ConfigError(
            f"model '{name}': its files lack {len(lost)} of the weights that its config.json asks for "
            f"({', '.join(lost[:3])}); they would be random. Export the model again, or mend config.json"
        )
    return model


def _laid_out(kind: type[PreTrainedModel], lay_out: Callable[[PreTrainedModel], None]) -> Any:
    """The class, whose models are laid out where transformers has a place for its own kinds of sharding."""

    def maybe_distribute_model(cls: Any, model: PreTrainedModel, *ignored: Any) -> PreTrainedModel:
        lay_out(model)
        return model

    # transformers finds what it knows of an architecture by the name of its class.
    names = {key: getattr(kind, key) for key in ("__module__", "__qualname__", "__doc__")}
    return type(
        kind.__name__, (kind,), names | {"maybe_distribute_model": classmethod(maybe_distribute_model)}
    )


def _of_all_workers(names: set[str]) -> set[str]:
    import torch.distributed as dist

    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, names)
    return set().union(*found)


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
        _keep_in_config(model.config, kept, len(stack))
        layers = [stack[index] for index in kept]
        del stack[:]
        stack.extend(layers)
        for index, layer in enumerate(layers):
            for module in layer.modules():
                if getattr(module, "layer_idx", None) is not None:
                    module.layer_idx = index


def _keep_in_config(config: Any, kept: list[int], num_layers: int) -> None:
    """The configuration of the layers kept, of `num_layers`: their number, and what it says of each, such as
    which attend to a window alone."""
    for name, value in config.to_dict().items():
        if name in NUMBERS_OF_LAYERS and value == num_layers:
            setattr(config, name, len(kept))
        elif name in LISTS_OF_LAYERS and isinstance(value, list) and len(value) == num_layers:
            setattr(config, name, [value[index] for index in kept])


def vocabulary_size(model: PreTrainedModel) -> int:
    """Rows of the embeddings, of which a tokenizer may use fewer."""
    embeddings: Any = model.get_input_embeddings()
    return int(embeddings.num_embeddings)


def layer_stacks(model: PreTrainedModel) -> list[Any]:
    """The ModuleLists of transformer blocks: one for decoder-only models, two for encoder-decoders."""
    import torch

    stacks = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    names = set(model._no_split_modules or ())
    # Sharding gives a block a class of its own, below the one that it had.
    return [stack for stack in stacks if names & {kind.__name__ for kind in type(stack[0]).__mro__}]


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
        is_native = torch.cuda.is_bf16_supported(including_emulation=False)
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
