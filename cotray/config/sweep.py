"""The configuration of a sweep: a run's configuration, what to vary in it, and how often to repeat it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from cotray.config import RunConfig, load_config
from cotray.config.base import Config
from cotray.config.file import read_tree, validated
from cotray.errors import ConfigError

SEEDS = ("student.training.seed", "simulator.training.seed")


StudentFigure = Literal["accuracy", "las", "sim_gain", "leak_rate", "oracle_gain", "perturbation_drop"]
RationaleFigure = Literal[
    "rationale.grounded", "rationale.novel", "rationale.delta", "rationale.qags", "rationale.num_words",
    "rationale.copy_rate", "rationale.repetition", "rationale.states_answer", "rationale.sim_gain",
    "rationale.las",
]  # fmt: skip


class Claim(Config):
    """That `figure` is higher for one value of a varied key than for another."""

    text: str
    """The claim in words, as the report shows it."""
    figure: StudentFigure | RationaleFigure
    """Of the student's answers, or, as `rationale.NAME`, of the teacher's rationales that `assess` scored."""
    more: str
    """A value under `vary`, as text."""
    less: str
    """The value that the claim puts below it."""


class SweepConfig(Config):
    config: str
    """The configuration that is varied; relative to the sweep's own file."""
    run_dir: str = "runs/sweep"
    """Every run gets a folder of its own below; local or s3://."""
    base: dict[str, Any] = Field(default_factory=dict)
    """Keys of that configuration set for all runs, such as {data.limit: 500}."""
    vary: dict[str, list[Any]] = Field(min_length=1)
    """Key -> the values it takes, one key at a time; all others stay as in the base."""
    seeds: tuple[int, ...] = Field(default=(1, 2, 3), min_length=1)
    """Of the student's and the simulator's training. The teacher writes once, whatever their number."""
    claims: tuple[Claim, ...] = ()
    """What the sweep is to find out: each is told to hold, not to hold, or to be open."""

    @model_validator(mode="after")
    def _claims_compare_what_is_varied(self) -> Self:
        values = [str(value) for varied in self.vary.values() for value in varied]
        for claim in self.claims:
            for value in (claim.more, claim.less):
                if values.count(value) != 1:
                    raise ValueError(
                        f"the claim '{claim.text}' compares '{value}', which is not exactly one value of vary"
                    )
        return self


@dataclass(frozen=True)
class Cell:
    """One value of one key; `configs` has a run's configuration per seed."""

    key: str
    value: Any
    configs: tuple[RunConfig, ...]


def load_sweep(path: str | Path, overrides: Sequence[str] = ()) -> tuple[SweepConfig, list[Cell]]:
    """Read and resolve everything before anything runs; `a.b=c` overrides the sweep's base, or its run_dir.

    Cells with the same resolved configuration, such as the base's own value under two keys, share their runs.
    Raises ConfigError with one line.
    """
    own = [text for text in overrides if text.startswith("run_dir=")]
    overrides = [text for text in overrides if text not in own]
    sweep = validated(SweepConfig, read_tree(path, own), source=str(path))
    overridden = {text.partition("=")[0] for text in overrides}
    if taken := (overridden & {*sweep.vary, *SEEDS}) | (sweep.vary.keys() & set(SEEDS)):
        raise ConfigError(
            f"{path}: {', '.join(sorted(taken))} is set by the sweep itself, under `vary` or `seeds`"
        )
    base = [*(f"{key}={json.dumps(value)}" for key, value in sweep.base.items()), *overrides]
    folders: dict[str, str] = {}
    cells = []
    for key, values in sweep.vary.items():
        for value in values:
            configs = []
            for seed in sweep.seeds:
                of_run = [f"{key}={json.dumps(value)}", *(f"{name}={seed}" for name in SEEDS)]
                config = load_config(Path(path).parent / sweep.config, [*base, *of_run])
                same = json.dumps(config.model_dump(mode="json"), sort_keys=True)
                folder = folders.setdefault(same, f"{sweep.run_dir}/{_name(key, value)}/seed-{seed}")
                configs.append(config.model_copy(update={"run_dir": folder}))
            cells.append(Cell(key, value, tuple(configs)))
    return sweep, cells


def runs(cells: Sequence[Cell]) -> Iterator[RunConfig]:
    """Every run once: all cells with the first seed, then all with the second, ..."""
    seen = set[str]()
    for of_seed in zip(*(cell.configs for cell in cells), strict=True):
        for config in of_seed:
            if config.run_dir not in seen:
                seen.add(config.run_dir)
                yield config


def _name(key: str, value: Any) -> str:
    return re.sub(r"[^\w.=+-]+", "_", f"{key}={value}")
