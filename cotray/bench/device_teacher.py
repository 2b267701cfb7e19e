"""The transformers teacher on one device: are its tokens right, how fast is it, and where does it wait.

B: pairs  V: vocabulary
"""

from __future__ import annotations

import os
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.autograd import DeviceType

from cotray.bench.device_common import (
    Settings,
    begin_peak,
    peak_figures,
    random_llama,
    requests_of,
    seconds_of,
    wait,
)
from cotray.models.cpu_linear import PackedLinear
from cotray.models.loading import load_for_inference
from cotray.models.random_models import byte_tokenizer
from cotray.prompts.teacher import render_request
from cotray.records import TeacherRequest
from cotray.teacher.contrastive import Decoding, choose_tokens
from cotray.teacher.coupling import Coupling, CouplingSettings, Slot
from cotray.teacher.one_pair_loop import one_pair_loop
from cotray.teacher.rationale_writer import Decoded
from cotray.teacher.transformers_teacher import Pair, TransformersTeacher

if TYPE_CHECKING:
    from cotray.config import TeacherConfig

NUM_RUNS = 2
"""Timed runs of each kind of decoding, interleaved, after a whole one of each to warm up."""
NUM_OWN_TOKENS = 100
"""Of every row, when a single step is measured."""


class TwoPassTeacher(TransformersTeacher):
    """Its limit: the same forward passes of both branches, whose likeliest tokens are taken uncoupled."""

    def _append(self, pairs: list[Pair], logits_BV: torch.Tensor) -> None:
        greedy = logits_BV.argmax(-1).tolist()
        for pair, token in zip(pairs, greedy[:: self.num_branches], strict=True):
            pair.decoded.tokens.append(token)
            if len(pair.decoded.tokens) == self.config.decoding.max_new_tokens:
                pair.decoded.stop_reason = "length"


def teacher_of(
    model: Any,
    num_pairs: int,
    *,
    method: str = "contrast-wrong",
    kind: type[TransformersTeacher] = TransformersTeacher,
) -> TransformersTeacher:
    model.set_attn_implementation("sdpa")  # an earlier teacher of this model put its own in
    config = cast("TeacherConfig", Settings(max_pairs=num_pairs))
    return kind(config, method=method, loaded=(model, byte_tokenizer()))


def bench_equality(device: torch.device, shape: str, num_pairs: int, num_in_loop: int) -> dict[str, Any]:
    """In float32: pairs at once, one at a time, in the plain loop of two caches, and on the CPU.

    Each figure is how many rationales have the same tokens as when all pairs are decoded at once.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    requests = requests_of(num_pairs)
    model = random_llama(shape, device, torch.float32)
    in_loop = [_loop_tokens(model, request) for request in requests[:num_in_loop]]
    batched = _tokens(teacher_of(model, num_pairs), requests)
    alone = _tokens(teacher_of(model, 1), requests)
    on_cpu = _tokens(teacher_of(model.to("cpu"), num_pairs), requests)
    return {
        "rationales": len(requests),
        "tokens": sum(map(len, batched)),
        "batched_equals_alone": _num_equal(batched, alone),
        "rationales_in_loop": num_in_loop,
        "batched_equals_loop": _num_equal(batched[:num_in_loop], in_loop),
        "equals_cpu": _num_equal(batched, on_cpu),
        "tokens_equal_cpu": sum(
            a == b
            for one, other in zip(batched, on_cpu, strict=True)
            for a, b in zip(one, other, strict=False)
        ),
        **_cpu_only_layers(),
    }


def _tokens(teacher: TransformersTeacher, requests: Sequence[TeacherRequest]) -> list[list[int]]:
    return [draw.tokens for draw in teacher.decode(requests)]


def _num_equal(some: list[list[int]], others: list[list[int]]) -> int:
    return sum(a == b for a, b in zip(some, others, strict=True))


def _loop_tokens(model: Any, request: TeacherRequest) -> list[int]:
    settings = Settings(max_pairs=1)
    prompt = render_request(request, num_demonstrations=settings.num_demonstrations)
    tokens, _ = one_pair_loop(
        model,
        byte_tokenizer(),
        prompt.grounded,
        prompt.contrast,
        weight=settings.decoding.weight,
        plausibility=settings.decoding.plausibility,
        max_new_tokens=settings.decoding.max_new_tokens,
    )
    return tokens


def _cpu_only_layers() -> dict[str, Any]:
    """Which attention the project's own loading chose, and how many linear layers only a CPU can run."""
    model, _ = load_for_inference("random:llama")
    packed = sum(isinstance(module, PackedLinear) for module in model.modules())
    return {"loaded_attention": model.config._attn_implementation, "loaded_packed_linear": packed}


def bench_rates(model: Any, num_pairs: int, device: torch.device, limits: dict[str, Any]) -> dict[str, Any]:
    """Greedy, contrastive and uncoupled decoding of both prompts, and what one step of it consists of."""
    requests = requests_of(num_pairs)
    begin_peak(device)
    kinds: dict[str, Callable[[], TransformersTeacher]] = {
        "greedy": lambda: teacher_of(model, num_pairs, method="greedy"),
        "two_pass": lambda: teacher_of(model, num_pairs, kind=TwoPassTeacher),
        "contrast": lambda: teacher_of(model, num_pairs),
    }
    rates: dict[str, list[float]] = {name: [] for name in kinds}
    teacher = None
    for run in range(1 + NUM_RUNS):
        for name, make in kinds.items():
            teacher = None  # before the next one takes as much memory for its slots
            teacher = make()
            rate = _tokens_per_s(teacher, requests, device)
            rates[name] += [rate] * (run > 0)
    assert teacher is not None
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return {
        **{f"{name}_tokens_per_s": rate for name, rate in medians.items()},
        "share_of_two_pass_limit": medians["contrast"] / medians["two_pass"],
        "spread": max(max(values) / min(values) for values in rates.values()),
        **peak_figures(device),
        **step_figures(teacher, num_pairs, device, limits),
    }


def _tokens_per_s(
    teacher: TransformersTeacher, requests: Sequence[TeacherRequest], device: torch.device
) -> float:
    wait(device)
    started = time.perf_counter()
    draws = teacher.decode(requests)
    wait(device)
    return sum(len(draw.tokens) for draw in draws) / (time.perf_counter() - started)


def step_figures(
    teacher: TransformersTeacher, num_pairs: int, device: torch.device, limits: dict[str, Any]
) -> dict[str, Any]:
    """One step of the engine: seconds, kernels, host waits, and what it must read and compute.

    The device can do no step faster than it reads all weights, keys and values once, nor faster than it
    multiplies every row by all weights.
    """
    pairs = [Pair(number, [], 0.5, 0) for number in range(num_pairs)]
    rows, cache = 2 * num_pairs, teacher.cache

    def step() -> None:
        for pair in pairs:
            pair.lengths, pair.decoded = [NUM_OWN_TOKENS] * 2, Decoded([5])
        teacher._append(pairs, teacher._step(pairs))

    def forward() -> object:
        return cache.forward([[5]] * rows, list(range(rows)), [NUM_OWN_TOKENS] * rows)

    step_s = seconds_of(step, device, repeats=10, warmups=2)
    forward_s = seconds_of(forward, device, repeats=10, warmups=2)
    model: Any = teacher.model
    config, num_prefix = model.config, cache.get_seq_length()
    per_position = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    embedded = 0 if config.tie_word_embeddings else model.get_input_embeddings().weight.numel()
    num_weights = sum(p.numel() for p in model.parameters()) - embedded
    num_read = num_weights + per_position * (num_prefix + rows * (NUM_OWN_TOKENS + 1))
    read_s = num_read * model.dtype.itemsize / limits["copy_bytes_per_s"]
    width = config.num_hidden_layers * config.num_attention_heads * config.head_dim
    flop = 2 * rows * (num_weights + 2 * width * (num_prefix + NUM_OWN_TOKENS + 1))
    figures: dict[str, Any] = {
        "step_ms": step_s * 1000,
        "forward_ms": forward_s * 1000,
        "share_of_bandwidth_limit": read_s / step_s,
        "share_of_arithmetic_limit": flop / limits["bf16_flop_per_s"] / step_s,
    }
    if device.type != "cuda":
        return figures
    try:
        return figures | _device_figures(step, device)
    except RuntimeError as error:  # rates are worth having where the driver's counters are not to be had
        return figures | {"profile_error": str(error)}


def _device_figures(step: Callable[[], None], device: torch.device) -> dict[str, Any]:
    """What one step asks of a GPU, and where the host waits for it."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        step()
        wait(device)
    # The driver's calls, such as launches, are among the events too; what ran on the device says so.
    ran = [e for e in profile.key_averages() if e.device_type == DeviceType.CUDA]
    kernels = [entry for entry in ran if not entry.key.startswith(("Memcpy", "Memset"))]
    slowest = Counter[str]()
    for entry in kernels:
        slowest[entry.key[:80]] += entry.self_device_time_total / 1000
    return {
        "kernels_per_step": sum(entry.count for entry in kernels),
        "copies_per_step": sum(entry.count for entry in ran) - sum(entry.count for entry in kernels),
        "device_ms_per_step": sum(entry.self_device_time_total for entry in ran) / 1000,
        "slowest_kernels_ms": dict(slowest.most_common(10)),
        **_host_waits(step),
    }


def _host_waits(step: Callable[[], None]) -> dict[str, Any]:
    """How often the host waits for the device in one step, and in which lines of the project."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    found = [entry for entry in caught if "synchronizing" in str(entry.message)]
    where = Counter(f"{os.path.relpath(entry.filename)}:{entry.lineno}" for entry in found)
    return {"host_waits_per_step": len(found), "host_waits_in": dict(where.most_common(10))}


def bench_coupling(num_pairs: int, vocabulary: int, device: torch.device, limits: dict[str, Any]) -> Any:
    """Choosing one token per pair from both logit matrices, against reading both once.

    `coupling` is the transformers engine's, in the model's type; `processor` is what vLLM's batch gets, in
    float32, with the chosen tokens written back.
    """
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    logits = torch.randn(2 * num_pairs, vocabulary, device=device).to(dtype)
    decoding = Decoding(plausibility=0.1)
    begin_peak(device)
    choose_s = seconds_of(
        lambda: choose_tokens(logits[::2], logits[1::2], decoding, weight=0.5), device, warmups=3
    )
    settings = CouplingSettings(eos=(1,), breaks=(12, 13), decoding=decoding)
    coupling = Coupling(settings, num_places=2 * num_pairs, device=device)
    for row in range(2 * num_pairs):
        coupling.put(row, Slot(str(row // 2), row % 2, 2, 0.5, 0, 0))
    coupling.regroup()
    single = logits.float()
    processor_s = seconds_of(lambda: coupling.apply(single), device, warmups=3)
    # A copy both reads and writes what it copies.
    read_s = logits.nbytes / limits["copy_bytes_per_s"]
    return {
        "coupling_ms": choose_s * 1000,
        "read_ms": read_s * 1000,
        "share_of_copy_limit": read_s / choose_s,
        "processor_ms": processor_s * 1000,
        "processor_share_of_copy_limit": single.nbytes / limits["copy_bytes_per_s"] / processor_s,
        **peak_figures(device),
    }
