"""QLoRA's frozen weights (Dettmers et al. 2023, section 3): the linear layers in 4 bits, by bitsandbytes.

They cannot be cut into rows, so that every worker has them whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from cotray.errors import ConfigError
from cotray.models.loading import compute_dtype, read_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from cotray.config import Dtype


def read_in_four_bits(name: str, *, revision: str, precision: Dtype) -> PreTrainedModel:
    """The model on this worker's device, computing in `precision`: its linear layers in NormalFloat 4 with
    doubly quantised constants, all else, such as embeddings and norms, in the type of the computation.

    ConfigError for a model that bitsandbytes leaves as it is, as one that is quantised already.
    """
    from transformers import BitsAndBytesConfig

    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else "cpu"
    dtype = compute_dtype(precision, "cpu" if device == "cpu" else "cuda")
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    quantization = {"quantization_config": nf4, "device_map": {"": device}}
    model = read_model(name, revision=revision, dtype=dtype, quantization=quantization)
    if not any(map(is_in_four_bits, model.parameters())):
        raise ConfigError(
            f"student.adapter.kind=qlora: bitsandbytes finds no linear layer to quantise in '{name}'; "
            "set kind to lora"
        )
    layers: list[Any] = [
        module for module in model.modules() if hasattr(module, "support_avx512bf16_for_cpu")
    ]
    for layer in layers:
        # On such CPUs an evaluation would lay the weights out anew, and round their constants for good.
        layer.support_avx512bf16_for_cpu = False
    return model


def forget_quantization(model: PreTrainedModel) -> None:
    """Or transformers would write it into the folder of the student, whose weights have none."""
    quantised: Any = model
    if getattr(quantised.config, "quantization_config", None) is not None:
        del quantised.config.quantization_config
    quantised.hf_quantizer, quantised.is_quantized = None, False


def is_in_four_bits(tensor: torch.Tensor) -> bool:
    return getattr(tensor, "quant_state", None) is not None


def num_weights(tensor: torch.Tensor) -> int:
    """Of which two share a byte in 4 bits."""
    return tensor.quant_state.shape.numel() if is_in_four_bits(tensor) else tensor.numel()  # type: ignore[attr-defined]


def in_float32(tensor: torch.Tensor) -> torch.Tensor:
    """What a weight in 4 bits stands for, and other floating-point weights, in float32."""
    if is_in_four_bits(tensor):
        from bitsandbytes.functional import dequantize_4bit

        four_bits: Any = tensor
        return dequantize_4bit(four_bits.data, four_bits.quant_state).float()
    return tensor.float() if tensor.is_floating_point() else tensor
