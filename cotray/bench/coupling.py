"""What the pair processor costs in each step of the vLLM teacher, beside reading its logits once.

The logits are drawn: one token in a vocabulary-sized row of normal values is likely, some others are near.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from cotray.teacher.contrastive import Decoding, contrastive_scores
from cotray.teacher.coupling import Coupling, CouplingSettings, Slot

NUM_PAIRS = 64
VOCABULARY = 152_064
"""Of Qwen's tokenizer."""
NUM_TIMED = 15
WEIGHT = 0.5
EOS = 7


def bench_coupling(
    *, num_pairs: int = NUM_PAIRS, vocabulary: int = VOCABULARY, num_timed: int = NUM_TIMED
) -> dict[str, Any]:
    """Print a line per decoding and return the figures.

    `step_ms`: of one step for `2 * num_pairs` rows. `share_of_copy_limit`: the time in which both logit
    matrices are read once, as a share of it. `speedup_over_scores`: over a step that works out every score
    with its normalisers. `tokens_equal`: whether it chooses the same tokens.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(2 * num_pairs, vocabulary, generator=generator) * 2).to(device)
    figures: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        "num_threads": torch.get_num_threads(),
        "num_rows": 2 * num_pairs,
        "vocabulary": vocabulary,
        "tokens_equal": True,
    }
    for name, plausibility in (("", 0.1), ("_without_plausibility", 0.0)):
        decoding = Decoding(plausibility)
        coupling, emitted = coupled(num_pairs, decoding, device), logits.clone()
        by_scores = _by_scores(logits, decoding)
        coupling.apply(emitted)
        tokens = emitted.argmax(-1, keepdim=True)
        figures["tokens_equal"] &= torch.equal(tokens[::2, 0], by_scores())

        def restore(emitted: torch.Tensor = emitted, tokens: torch.Tensor = tokens) -> None:
            """What the step wrote: one entry per row."""
            emitted.scatter_(-1, tokens, logits.gather(-1, tokens))

        step = partial(coupling.apply, emitted)
        step_s, scores_s, read_s = _medians(
            [step, by_scores, partial(logits.amax, -1)], num_timed, device, before_each=restore
        )
        figures[f"step{name}_ms"] = 1e3 * step_s
        figures[f"share_of_copy_limit{name}"] = read_s / step_s
        figures[f"speedup_over_scores{name}"] = scores_s / step_s
    for name, value in figures.items():
        print(f"{name}: {value:.3f}" if isinstance(value, float) else f"{name}: {value}")
    return figures


def coupled(num_pairs: int, decoding: Decoding, device: torch.device) -> Coupling:
    """With a pair in every two rows."""
    coupling = Coupling(
        CouplingSettings(eos=(EOS,), breaks=(), decoding=decoding), num_places=2 * num_pairs, device=device
    )
    for row in range(2 * num_pairs):
        slot = Slot(str(row // 2), row % 2, num_branches=2, weight=WEIGHT, seed=0, position=0)
        coupling.put(row, slot)
    coupling.regroup()
    return coupling


def _by_scores(logits: torch.Tensor, decoding: Decoding) -> Callable[[], torch.Tensor]:
    """The plain way: all scores, then the largest."""
    even = torch.arange(0, len(logits), 2, device=logits.device)
    return lambda: contrastive_scores(
        logits.index_select(0, even),
        logits.index_select(0, even + 1),
        weight=WEIGHT,
        plausibility=decoding.plausibility,
    ).argmax(-1)


def _medians(
    works: list[Callable[[], Any]], num_timed: int, device: torch.device, *, before_each: Callable[[], None]
) -> list[float]:
    """Seconds of each, measured in turns; `before_each` is not measured."""
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(num_timed + 1):
        for taken, work in zip(seconds, works, strict=True):
            before_each()
            _wait_for(device)
            began = time.perf_counter()
            work()
            _wait_for(device)
            taken.append(time.perf_counter() - began)
    return [statistics.median(taken[1:]) for taken in seconds]


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
