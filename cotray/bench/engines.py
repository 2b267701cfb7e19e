"""The vLLM teacher beside the transformers teacher and beside its own two-pass limit.

The limit: the same vLLM engine decodes both prompts of every pair plainly, for as many tokens as the
rationale has, so it does the same forward passes and none of the pairing. Each engine has a process of its
own; one round runs all three parts, and every part starts with only the demonstrations in its prefix cache.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from cotray.config import DecodingConfig, TeacherConfig
from cotray.pools.progress import progress_bar
from cotray.records import TeacherRequest
from cotray.teacher.teacher import process_environment


@dataclass
class Part:
    """What one timed run gave: `tokens` per pair, seconds to the end and to the first finished pair."""

    seconds: float
    first_seconds: float
    peak_mib: float
    tokens: list[list[int]] = field(default_factory=list)
    splits: int = 0
    unpaired_tokens: int = 0


class _Engine:
    """A teacher in a process of its own; calls run there, one after the other."""

    def __init__(self, config: TeacherConfig) -> None:
        context = multiprocessing.get_context("spawn")
        self.executor = ProcessPoolExecutor(1, context, initializer=_load, initargs=(config,))
        # As in the pool: what has to be set before the process starts.
        before, extra = dict(os.environ), process_environment(config)
        os.environ.update(extra)
        self.executor.submit(_peak_mib).result()
        for name in extra:
            os.environ.pop(name)
        os.environ.update(before)

    def call(self, function: Any, *arguments: Any) -> Any:
        return self.executor.submit(function, *arguments).result()


_teacher: Any = None


def _load(config: TeacherConfig) -> None:
    from cotray.teacher.teacher import build_teacher

    global _teacher
    _teacher = build_teacher(config, method="contrast-wrong")


def _contrast(requests: Sequence[TeacherRequest]) -> Part:
    _warm(requests)
    started, first = time.perf_counter(), []
    draws = _teacher.decode(requests, on_finished=lambda _: first or first.append(time.perf_counter()))
    part = Part(time.perf_counter() - started, first[0] - started, _peak_mib())
    decoded = [getattr(draw, "decoded", draw) for draw in draws]
    part.tokens = [d.tokens for d in decoded]
    part.splits = sum(d.splits for d in decoded)
    part.unpaired_tokens = sum(getattr(draw, "unpaired_tokens", 0) for draw in draws)
    return part


def _two_pass_limit(requests: Sequence[TeacherRequest], tokens: Sequence[Sequence[int]]) -> Part:
    """A pair that stops has one more step than tokens: the one in which it chose to stop."""
    from cotray.prompts.teacher import render_request

    _warm(requests)
    most = _teacher.config.decoding.max_new_tokens
    prompts, lengths = [], []
    for request, rationale in zip(requests, tokens, strict=True):
        prompt = render_request(request, num_demonstrations=_teacher.config.num_demonstrations)
        for text in (prompt.grounded, prompt.contrast):
            prompts.append(_teacher.tokenizer(text).input_ids)
            lengths.append(min(len(rationale) + 1, most))
    started = time.perf_counter()
    _teacher.engine.decode_plainly(prompts, lengths)
    seconds = time.perf_counter() - started
    return Part(seconds, seconds, _peak_mib())


def _warm(requests: Sequence[TeacherRequest]) -> None:
    if hasattr(_teacher, "engine"):
        _teacher.engine.forget_prefixes()
    _teacher.decode(requests[:1])


def _close() -> None:
    _teacher.close()


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def bench_engines(
    *, model: str, requests: Sequence[TeacherRequest], num_rounds: int, max_pairs: int, dtype: str
) -> dict[str, Any]:
    """Print the table and return the figures."""
    settings: dict[str, Any] = {
        "model": model,
        "dtype": dtype,
        "max_pairs": max_pairs,
        "decoding": DecodingConfig(max_new_tokens=64),
    }
    slow = _Engine(TeacherConfig(engine="transformers", **settings))
    fast = _Engine(TeacherConfig(engine="vllm", engine_args={"max_model_len": 2048}, **settings))
    parts: dict[str, list[Part]] = {"transformers": [], "vllm": [], "vllm two-pass limit": []}
    with progress_bar("bench teacher engines", total=3 * num_rounds, unit="part") as bar:
        for _ in range(num_rounds):
            parts["transformers"].append(slow.call(_contrast, requests))
            bar.update()
            parts["vllm"].append(fast.call(_contrast, requests))
            bar.update()
            tokens = parts["vllm"][-1].tokens
            parts["vllm two-pass limit"].append(fast.call(_two_pass_limit, requests, tokens))
            bar.update()
    fast.call(_close)
    for engine in (slow, fast):
        engine.executor.shutdown()
    return _figures(parts, len(requests))


def _figures(parts: dict[str, list[Part]], num_pairs: int) -> dict[str, Any]:
    expected = parts["transformers"][0].tokens
    num_tokens = sum(map(len, expected))
    num_equal = sum(a == b for a, b in zip(expected, parts["vllm"][0].tokens, strict=True))
    seconds = {name: statistics.median(p.seconds for p in runs) for name, runs in parts.items()}
    print(
        f"{'':<22}{'tokens/s':>10}{'pairs/s':>9}{'seconds':>9}{'first (s)':>11}{'peak MiB':>10}{'splits':>8}"
        f"  (median of {len(parts['vllm'])}, {num_pairs} pairs, {num_tokens} tokens)"
    )
    for name, runs in parts.items():
        first = statistics.median(p.first_seconds for p in runs)
        print(
            f"{name:<22}{num_tokens / seconds[name]:>10.1f}{num_pairs / seconds[name]:>9.2f}"
            f"{seconds[name]:>9.1f}{first:>11.2f}{runs[-1].peak_mib:>10.0f}{sum(p.splits for p in runs):>8}"
        )
    print(f"tokens equal to the transformers engine's: {num_equal} of {num_pairs} pairs")
    figures = {
        "share_of_two_pass_limit": seconds["vllm two-pass limit"] / seconds["vllm"],
        "speedup_over_transformers": seconds["transformers"] / seconds["vllm"],
        "splits": sum(p.splits for p in parts["vllm"]),
        "unpaired_tokens": sum(p.unpaired_tokens for p in parts["vllm"]),
        "tokens_equal": num_equal == num_pairs,
        "pairs": num_pairs,
        "tokens_per_rationale": num_tokens / num_pairs,
        "vllm_tokens_per_s": num_tokens / seconds["vllm"],
        "transformers_tokens_per_s": num_tokens / seconds["transformers"],
    }
    for name in ("share_of_two_pass_limit", "speedup_over_transformers"):
        print(f"{name}: {figures[name]:.2f}")
    return figures
