"""The teacher's rate from what `cotray bench teacher --json FILE` measured."""

from __future__ import annotations

import json
from pathlib import Path

from cotray.config import RunConfig
from cotray.errors import ConfigError

WAY_OUT = "measure it with `cotray bench teacher --json FILE` and give --bench FILE, or give"


def teacher_rates(
    config: RunConfig,
    bench: str | None,
    *,
    tokens_per_s: float | None = None,
    tokens_per_rationale: float | None = None,
) -> tuple[float, float]:
    """Rationale tokens/s of one replica and tokens per rationale; what is given overrides what is measured.

    Raises ConfigError where there is no rate. Without a length, rationales are as long as they may be.
    """
    if config.method in ("human", "few-shot"):
        raise ConfigError(f"method={config.method}: the planner knows methods with a teacher and a student")
    if config.teacher.engine == "openai":
        raise ConfigError("teacher.engine=openai: a teacher behind an API needs no GPUs to plan")
    figures = _figures(bench) if bench else {}
    if tokens_per_s is None:
        tokens_per_s = next((figures[name] for name in _rate_names(config) if name in figures), None)
    if tokens_per_s is None:
        what = f"{bench} has no rate of" if bench else "no rate is given for"
        raise ConfigError(f"{what} teacher.engine={config.teacher.engine}: {WAY_OUT} --teacher-tokens-per-s")
    if tokens_per_rationale is None:
        tokens_per_rationale = figures.get("tokens_per_rationale", config.teacher.decoding.max_new_tokens)
    for option, value in (
        ("--teacher-tokens-per-s", tokens_per_s),
        ("--tokens-per-rationale", tokens_per_rationale),
    ):
        if not value > 0:
            raise ConfigError(f"{option}={value:g}: must be above 0")
    return float(tokens_per_s), float(tokens_per_rationale)


def _rate_names(config: RunConfig) -> list[str]:
    """Of the figures of bench teacher, best first; vLLM's greedy decoding is not measured."""
    if config.teacher.engine == "vllm":
        return ["vllm_tokens_per_s"]
    if config.teacher.engine == "transformers":
        contrast = ["contrast_tokens_per_s", "transformers_tokens_per_s"]
        return ["greedy_tokens_per_s", *contrast] if config.method.startswith("greedy") else contrast
    return []


def _figures(path: str) -> dict[str, float]:
    try:
        figures = json.loads(Path(path).read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; {WAY_OUT} --teacher-tokens-per-s") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not a bench result ({error}); {WAY_OUT} --teacher-tokens-per-s") from None
    if not isinstance(figures, dict):
        raise ConfigError(f"{path}: not a bench result; {WAY_OUT} --teacher-tokens-per-s")
    return {name: value for name, value in figures.items() if isinstance(value, int | float)}
