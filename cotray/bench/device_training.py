"""A training step of the project's own loop on one device: tokens per second, share of the peak, memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from cotray.bench.device_common import begin_peak, peak_figures, wait
from cotray.models.random_models import byte_tokenizer
from cotray.models.sequences import encode
from cotray.records import Kind, TrainExample
from cotray.training.batches import StepExamples
from cotray.training.blocks import recompute_activations
from cotray.training.fsdp import shard
from cotray.training.speed import PEAK_FLOP_PER_S
from cotray.training.step import Collator, train_step

if TYPE_CHECKING:
    from cotray.config import Dtype

NUM_STEPS = 4
VARIANTS: dict[str, tuple[Dtype, bool, bool]] = {
    "float32": ("float32", False, False),
    "bfloat16": ("bfloat16", False, False),
    "bfloat16, recomputed activations": ("bfloat16", True, False),
    "bfloat16, compiled blocks": ("bfloat16", False, True),
}
"""Type of the computation, whether activations are recomputed, whether blocks are compiled."""

Part = Callable[[str, Callable[[], dict[str, Any]]], dict[str, Any]]


def examples_of(count: int) -> StepExamples:
    """Sequences of about 500 bytes, which the byte tokenizer makes as many tokens."""

    def example(number: int, kind: Kind) -> TrainExample:
        source = f"[{kind}] Would machine {number} be heavier than a horse on the moon, {'and why ' * 20}?\n"
        target = (
            f"{'It has wheels of iron and a boiler. ' * 8}So the answer is {'yes' if number % 2 else 'no'}"
        )
        return TrainExample(str(number), kind, source, target)

    kinds: tuple[Kind, Kind] = ("factual", "counterfactual")
    texts = [[example(number, kind) for number in range(count)] for kind in kinds]
    return StepExamples(
        *([encode(e, byte_tokenizer(), is_encoder_decoder=False) for e in kind] for kind in texts)
    )


def bench_training(
    part: Part, make: Callable[[torch.dtype], Any], batch: int, micro_batch: int, device: torch.device
) -> None:
    """One part per variant; every one starts from the same weights and sees the same examples."""
    for name, (precision, recomputes, compiles) in VARIANTS.items():
        if compiles and device.type == "cpu":
            continue  # compiling for a CPU takes minutes and tells nothing of a GPU
        part(
            f"training, {name}",
            partial(_with_group, make, precision, recomputes, compiles, batch, micro_batch, device),
        )


def _with_group(*arguments: Any) -> dict[str, Any]:
    """As one worker of one: sharding, and with it the precision, needs a process group."""
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, rank=0, world_size=1, store=dist.HashStore())
    try:
        return _train(*arguments)
    finally:
        dist.destroy_process_group()


def _train(
    make: Callable[[torch.dtype], Any],
    precision: Dtype,
    recomputes: bool,
    compiles: bool,
    batch: int,
    micro_batch: int,
    device: torch.device,
) -> dict[str, Any]:
    begin_peak(device)
    model = make(torch.float32)
    if recomputes:
        recompute_activations(model)
    if compiles:
        for block in model.model.layers:
            block.compile()
    num_embedded = model.get_input_embeddings().weight.numel()
    num_parameters = sum(p.numel() for p in model.parameters()) - num_embedded
    shard(model, precision)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    collator, examples = Collator(model, byte_tokenizer(), micro_batch), examples_of(batch)
    # The head computes the columns that have a label, also the padded rows of a batch.
    num_columns = sum(m.batch.labels_BK.numel() for kind in examples for m in collator(kind))
    losses, norms, seconds, num_tokens = [], [], [], 0.0
    for _ in range(NUM_STEPS):
        started = time.perf_counter()
        metrics = train_step(optimizer, examples, collator=collator, alpha=0.5, clip_norm=1.0)
        wait(device)
        seconds.append(time.perf_counter() - started)
        losses.append(metrics["loss"])
        norms.append(metrics["grad_norm"])
        num_tokens = metrics["num_tokens"]
    step_s = statistics.median(seconds[1:])
    flop = 6 * (num_parameters * num_tokens + num_embedded * num_columns)
    figures: dict[str, Any] = {
        "losses": losses,
        "grad_norms": norms,
        "first_step_s": seconds[0],
        "step_s": step_s,
        "tokens_per_s": num_tokens / step_s,
        "flop_per_s": flop / step_s,
        **peak_figures(device),
    }
    if device.type == "cuda":
        name = torch.cuda.get_device_name()
        peak = next((value for key, value in PEAK_FLOP_PER_S.items() if key in name), None)
        figures["mfu"] = flop / step_s / peak if peak else None
    return figures
