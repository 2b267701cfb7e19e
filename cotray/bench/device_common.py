"""What the parts of cotray.bench.device share: shapes, random models, requests, settings and the clock.

Imports nothing that needs pydantic, Ray or vLLM, so that torch and transformers are enough.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from cotray.records import TeacherRequest

# Hidden size, layers, heads, key-value heads, inner size, vocabulary.
SHAPES = {
    "tiny": (64, 2, 2, 1, 128, 512),
    "135M": (576, 30, 9, 3, 1536, 49152),
    "1B": (2048, 16, 32, 8, 8192, 128256),
    "8B": (4096, 32, 32, 8, 14336, 128256),
}
NUM_NEW_TOKENS = 32


@dataclass(frozen=True)
class Decodes:
    """The fields of cotray.config.DecodingConfig that the teacher reads."""

    weight: float = 0.5
    plausibility: float = 0.1
    temperature: float = 1.0
    temperature_on: str = "both"
    num_samples: int = 0
    num_draws: int = 1
    max_new_tokens: int = NUM_NEW_TOKENS
    stop: str = "line"
    stop_text: str = ""


@dataclass(frozen=True)
class Settings:
    """The fields of cotray.config.TeacherConfig that the teacher reads: that class needs pydantic."""

    max_pairs: int
    model: str = "random"
    num_demonstrations: int = 1
    record_scores: bool = False
    prompt: str = "completion"
    instructions: str = ""
    decoding: Decodes = field(default_factory=Decodes)


def random_llama(shape: str, device: torch.device, dtype: torch.dtype) -> Any:
    """A Llama of random weights, made where it will run."""
    from transformers import LlamaConfig, LlamaForCausalLM

    hidden, layers, heads, key_heads, inner, vocabulary = SHAPES[shape]
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        max_position_embeddings=8192,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
        tie_word_embeddings=shape != "8B",
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            return LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)


def requests_of(count: int) -> list[TeacherRequest]:
    """Questions of about a hundred bytes, which the byte tokenizer makes about as many tokens."""
    return [
        TeacherRequest(
            id=str(number),
            task="yes_no",
            question=f"Would machine number {number} be heavier than a full-grown horse on the moon?",
            choices=("yes", "no"),
            answer="yes",
            target_answer="yes",
            contrast_answer="no",
        )
        for number in range(count)
    ]


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds_of(
    work: Callable[[], object], device: torch.device, *, repeats: int = 5, warmups: int = 1
) -> float:
    """The median of some runs after others to warm up, each from an idle device to an idle device."""
    for _ in range(warmups):
        work()
    times = []
    for _ in range(repeats):
        wait(device)
        started = time.perf_counter()
        work()
        wait(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def begin_peak(device: torch.device) -> None:
    """Forget the peak of memory so far."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()


def peak_figures(device: torch.device) -> dict[str, float]:
    """GiB of tensors, and of memory taken from the device, at most since `begin_peak`; {} on a CPU."""
    if device.type != "cuda":
        return {}
    return {
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
        "peak_reserved_gib": torch.cuda.max_memory_reserved() / 2**30,
    }


def bench_limits(device: torch.device) -> dict[str, Any]:
    """Bytes read and written per second by a copy, and the rate of a bfloat16 matrix product."""
    num, size = (1 << 30, 8192) if device.type == "cuda" else (1 << 24, 512)
    source = torch.zeros(num, dtype=torch.bfloat16, device=device)
    target = torch.empty_like(source)
    copy_s = seconds_of(lambda: target.copy_(source), device)
    left = torch.randn(size, size, dtype=torch.bfloat16, device=device)
    product_s = seconds_of(lambda: left @ left, device)
    return {
        "copy_bytes_per_s": 2 * source.nbytes / copy_s,
        "bf16_flop_per_s": 2 * size**3 / product_s,
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "none",
        "transformers": _version("transformers"),
        "name": device_name(device),
    }


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else "cpu"


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)
