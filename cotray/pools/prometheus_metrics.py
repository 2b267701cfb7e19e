"""Prometheus metrics, exported by every node's Ray agent as ray_cotray_*; one tag, the stage.

Of pools: rows, tokens, pair_splits, retries, dead_letters, replica_starts (counters), queue_depth (rows not
finished) and replicas (gauges). Of trainings: `TRAINING_GAUGES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

COUNTERS = {
    "rows": "Rows finished",
    "tokens": "Rationale tokens of finished rows",
    "pair_splits": "Times the two branches of a pair lost lock-step",
    "retries": "Attempts after the first",
    "dead_letters": "Rows given up",
    "replica_starts": "Replicas whose model was loaded",
}
TRAINING_GAUGES = {
    "step": "Optimizer steps done",
    "loss": "Loss of the last step",
    "dev_loss": "Loss on dev after the last epoch",
    "grad_norm": "Norm of the last step's gradient before clipping",
    "learning_rate": "Learning rate of the last step",
    "tokens_per_s": "Tokens of the last step by its seconds",
    "padding_share": "Share of the last step's tokens that are padding",
    "flop_per_s": "Floating-point operations of the last step by its seconds",
    "mfu": "Their share of the GPUs' peak",
    "memory_mib": "The most memory that the first worker had",
}
GAUGES = {"queue_depth": "Rows not finished", "replicas": "Replicas running", **TRAINING_GAUGES}


def count(stage: str, counts: Mapping[str, int]) -> None:
    """Add to the counters; names that are none are left out."""
    for name, value in counts.items():
        if name in COUNTERS and value > 0:
            _metric(name).inc(value, tags={"stage": stage})


def gauge(stage: str, values: Mapping[str, float]) -> None:
    for name, value in values.items():
        _metric(name).set(value, tags={"stage": stage})


@cache
def _metric(name: str) -> Any:
    from ray.util import metrics

    kind, text = (metrics.Counter, COUNTERS[name]) if name in COUNTERS else (metrics.Gauge, GAUGES[name])
    return kind(f"cotray_{name}", description=text, tag_keys=("stage",))
