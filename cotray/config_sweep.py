"""The configuration of a sweep: a run's configuration, what to vary in it, and how often to repeat it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from cotray.config import RunConfig, load_config
from cotray.config_types import Config
from cotray.configfile import describe, read_tree
from cotray.errors import ConfigError

SEED = "student.training.seed"


StudentFigure = Literal["accuracy", "las", "sim_gain", "leak_rate", "oracle_gain", "perturbation_drop"]
RationaleFigure = Literal[
    "rationale.grounded", "rationale.novel", "rationale.delta", "rationale.qags", "rationale.num_words",
    "rationale.copy_rate", "rationale.repetition", "rationale.states_answer", "rationale.sim_gain",
]  # fmt: skip


class Claim(Config):
    """That `figure` is higher for one value of a varied key than for another."""

    text: str
    figure: StudentFigure | RationaleFigure
    """Of the student's answers, or, as `rationale.NAME`, of the teacher's rationales that `assess` scored."""
    more: str
    """A value under `vary`, as text."""
    less: str


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
    """Of the student's training. The teacher writes once, whatever their number."""
    claims: tuple[Claim, ...] = ()
    """What the sweep is to find out: each is told to hold, not to hold, or to be open."""

    @model_validator(mode="after")
    def _claims_compare_what_is_varied(self) -> Self:
        values = [str(value) for varied in self.vary.values() for value in varied]
        for claim in self.claims:
            for value in (claim.more, claim.less):
                if values.count(value) != 1:
                    raise ValueError(
                        f"the claim '{claim.text}' compares '{value}', which is not one value of vary"
                    )
        return self


@dataclass(frozen=True)
class Cell:
    """One value of one key; `configs` has a run's configuration per seed, or one where nothing is trained."""

    key: str
    value: Any
    configs: tuple[RunConfig, ...]


def load_sweep(path: str | Path, overrides: Sequence[str] = ()) -> tuple[SweepConfig, list[Cell]]:
    """Read and resolve everything before anything runs; `a.b=c` overrides the sweep's base.

    Cells with the same resolved configuration, such as the base's own value under two keys, share their runs.
    Raises ConfigError with one line.
    """
    try:
        sweep = SweepConfig.model_validate(read_tree(path, ()))
    except ValidationError as error:
        problems = "; ".join(describe(problem, SweepConfig) for problem in error.errors()[:5])
        raise ConfigError(f"{path}: {problems}") from None
    source = Path(path).parent / sweep.config
    base = [*(f"{key}={json.dumps(value)}" for key, value in sweep.base.items()), *overrides]
    folders: dict[str, str] = {}
    cells = []
    for key, values in sweep.vary.items():
        for value in values:
            configs = []
            for seed in sweep.seeds if value != "few-shot" else sweep.seeds[:1]:
                varied = [*base, f"{key}={json.dumps(value)}", f"{SEED}={seed}", f"run_dir={sweep.run_dir}"]
                config = load_config(source, varied)
                same = json.dumps(config.model_dump(mode="json"), sort_keys=True)
                folder = folders.setdefault(same, f"{sweep.run_dir}/{_name(key, value)}/seed-{seed}")
                configs.append(config.model_copy(update={"run_dir": folder}))
            cells.append(Cell(key, value, tuple(configs)))
    return sweep, cells


def runs(cells: Sequence[Cell]) -> Iterator[RunConfig]:
    """Every run once: all cells with the first seed, then all with the second, ..."""
    seen = set[str]()
    for of_seed in zip_longest(*(cell.configs for cell in cells)):
        for config in of_seed:
            if config is not None and config.run_dir not in seen:
                seen.add(config.run_dir)
                yield config


def _name(key: str, value: Any) -> str:
    return re.sub(r"[^\w.=+-]+", "_", f"{key}={value}")
