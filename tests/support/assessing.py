"""A small run with every draw of two rationales assessed, on a running cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cotray.config import RunConfig, parse_config
from cotray.records import Rationale
from cotray.stages.assess import assess
from cotray.stages.generate import generate
from cotray.stages.prepare import prepare

NUM_DRAWS = 2
RULES = [{"score": "num_words", "lowest": 0.5}, {"score": "num_words", "highest": 0.25, "weight": 0.5}]


def config_of(run_dir: Path, **assessing: Any) -> RunConfig:
    return parse_config(
        {
            "run_dir": str(run_dir),
            "method": "contrast-wrong+counterfactual",
            "data": {"limit": 24},
            "teacher": {"engine": "fake", "num_cpus": 1, "decoding": {"num_samples": NUM_DRAWS}},
            "assessing": {
                "measures": ["surface", "quals"],
                "model": "random:llama",
                "num_demonstrations": 1,
                "num_groups": 2,
                "max_new_tokens": 4,
                "num_cpus": 1,
                "replicas": {"max": 2},
            }
            | assessing,
            "student": {
                "model": "random:qwen2",
                "training": {"epochs": 1, "num_workers": 1, "max_length": 2048},
            },
        }
    )


def assessed_run(run_dir: Path) -> Path:
    config = config_of(run_dir)
    prepare(config)
    generate(config)
    assess(config)
    return run_dir


def key(row: Rationale) -> tuple[str, str, int]:
    return row.kind, row.id, row.sample
