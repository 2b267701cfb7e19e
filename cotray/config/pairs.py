"""The configuration of `cotray train_pairs`: which model learns to write pairs, and how."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from cotray.config import ModelConfig, RayConfig, StorageConfig, TrainingConfig
from cotray.config.base import FileConfig
from cotray.config.file import read_tree, validated


class PairsConfig(ModelConfig, FileConfig):
    """Of `training`, what concerns tags and counterfactual rationales has no effect here."""

    seed: int = 42
    """Of the split and, unless training.seed is given, of dropout and the order of the examples."""
    limit: int = Field(default=0, ge=0)
    """Use the first so many usable pairs; 0 = all."""
    dev_fraction: float = Field(default=0.05, ge=0, lt=1)
    """Share of the passages whose pairs become dev, drawn by passage."""
    training: TrainingConfig = TrainingConfig(epochs=2, max_length=1024)
    """How it is trained; `counterfactual_weight` and `tags` have no effect here."""
    ray: RayConfig = RayConfig()
    """The cluster that it is trained on."""
    storage: StorageConfig = StorageConfig()
    """Where s3:// is."""


def load_pairs(path: str | Path, overrides: Sequence[str] = ()) -> PairsConfig:
    """The file with `a.b=c` overrides; raises ConfigError with one line."""
    return validated(PairsConfig, read_tree(path, overrides), source=str(path))
