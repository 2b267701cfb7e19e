"""Does the vLLM teacher give the transformers teacher's tokens? Both in float32, for greedy, wrong and empty,
with and without the plausibility mask. Not a timing: `tokens_equal` is what it is for."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from typing import Any

from cotray.config import DecodingConfig, TeacherConfig
from cotray.config.world import PREFIX
from cotray.pools.progress import progress_bar
from cotray.records import TeacherRequest

METHODS = ("greedy", "contrast-wrong", "contrast-empty")
MASKS = (0.1, 0.0)
NUM_DEMONSTRATIONS = TeacherConfig().num_demonstrations
Tokens = list[list[int]]


def decode_all(
    engine: str, model: str, methods: Sequence[str], mask: float, requests: Sequence[TeacherRequest]
) -> dict[str, Tokens]:
    """Tokens by method, from one engine; all `methods` must have equally many branches."""
    from cotray.teacher.teacher import build_teacher

    # A world's teacher reads no words but the world's, and has few positions.
    is_world = model.startswith(PREFIX)
    config = TeacherConfig(
        engine=engine,  # type: ignore[arg-type]
        model=model,
        dtype="float32",
        engine_args={"max_model_len": 2048} if engine == "vllm" and not is_world else {},
        decoding=DecodingConfig(max_new_tokens=64, plausibility=mask),
        num_demonstrations=0 if is_world else NUM_DEMONSTRATIONS,
    )
    teacher: Any = build_teacher(config, method=methods[0])
    tokens = {}
    for method in methods:
        is_empty = method == "contrast-empty"
        asked = [replace(request, contrast_answer="") if is_empty else request for request in requests]
        tokens[method] = [getattr(d, "decoded", d).tokens for d in teacher.decode(asked)]
    if engine == "vllm":
        teacher.close()
    return tokens


def bench_parity(*, model: str, requests: Sequence[TeacherRequest]) -> dict[str, Any]:
    """Print one line per method and mask, and return the figures."""
    cases = [(methods, mask) for methods in (METHODS[:1], METHODS[1:]) for mask in MASKS]
    num_equal = num_pairs = 0
    lines = []
    with progress_bar("bench parity", total=2 * len(cases), unit="engine") as bar:
        for methods, mask in cases:
            tokens = []
            for engine in ("transformers", "vllm"):
                with ProcessPoolExecutor(1, get_context("spawn")) as executor:
                    call = executor.submit(decode_all, engine, model, methods, mask, requests)
                    tokens.append(call.result())
                bar.update()
            for method in methods:
                pairs = list(zip(tokens[0][method], tokens[1][method], strict=True))
                equal = sum(a == b for a, b in pairs)
                lines.append(f"{method:<16}mask {mask:<5}{equal:>5} of {len(pairs)} pairs equal")
                num_equal, num_pairs = num_equal + equal, num_pairs + len(pairs)
    print("\n".join(lines))
    return {"tokens_equal": num_equal == num_pairs, "pairs_equal": num_equal, "pairs": num_pairs}
