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


StudentFigure = Literal[
    "accuracy", "las", "sim_gain", "leak_rate", "oracle_gain", "perturbation_drop", "following",
    "early_answering", "filler", "mistake", "mentioned",
]  # fmt: skip
RationaleFigure = Literal[
    "rationale.grounded", "rationale.novel", "rationale.delta", "rationale.qags", "rationale.num_words",
    "rationale.copy_rate", "rationale.repetition", "rationale.states_answer", "rationale.sim_gain",
    "rationale.las",
]  # fmt: skip


class Claim(Config):
    """That `figure` is higher for one cell of the sweep than for another, or than 0, or no different."""

    text: str
    """The claim in words, as the report shows it."""
    figure: StudentFigure | RationaleFigure
    """Of the student's answers, or, as `rationale.NAME`, of the teacher's rationales that `assess` scored.
    `following` is known where the data are a world, or where `probe` asked for it: the share of questions
    whose answer follows every rationale that is given. The figures of `probe` need it in the run, by
    `probing.measures`."""
    more: str
    """A value under `vary`, as text, or a name under `cells`."""
    less: str = ""
    """What the claim puts below it; without one, the figure is compared with 0."""
    within: float = Field(default=0.0, ge=0)
    """Above 0, the claim says that the two differ by no more than this, in either direction."""


class SweepConfig(Config):
    config: str
    """The configuration that is varied; relative to the sweep's own file."""
    run_dir: str = "runs/sweep"
    """Every run gets a folder of its own below; local or s3://."""
    base: dict[str, Any] = Field(default_factory=dict)
    """Keys of that configuration set for all runs, such as {data.limit: 500}."""
    vary: dict[str, list[Any]] = Field(default_factory=dict)
    """Key -> the values it takes, one key at a time; all others stay as in the base."""
    cells: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Name -> keys that differ from the base together, such as {method: greedy, data.world.vacuous: 0}."""
    seeds: tuple[int, ...] = Field(default=(1, 2, 3), min_length=1)
    """Of the student's and the simulator's training. The teacher writes once, whatever their number."""
    calibrates: bool = False
    """Whether to tell how well each figure ranks the runs by the truth; for data of the made-up world, with
    the measures of `probing`, if those are to be among the figures."""
    claims: tuple[Claim, ...] = ()
    """What the sweep is to find out: each is told to hold, not to hold, or to be open."""

    @model_validator(mode="after")
    def _varies_something(self) -> Self:
        if not self.vary and not self.cells:
            raise ValueError("nothing is varied: give `vary` or `cells`")
        return self

    @model_validator(mode="after")
    def _claims_compare_what_is_varied(self) -> Self:
        values = [str(value) for varied in self.vary.values() for value in varied] + list(self.cells)
        for claim in self.claims:
            for value in filter(None, (claim.more, claim.less)):
                if values.count(value) != 1:
                    raise ValueError(
                        f"the claim '{claim.text}' compares '{value}', which is not exactly one value of "
                        "vary or one name of cells"
                    )
        return self

    @property
    def settings_of_cells(self) -> Iterator[tuple[str, Any, dict[str, Any]]]:
        """(key, value, all that is set) of every cell; a named one has no key and its name as value."""
        for key, values in self.vary.items():
            yield from ((key, value, {key: value}) for value in values)
        yield from (("", name, settings) for name, settings in self.cells.items())


@dataclass(frozen=True)
class Cell:
    """One value of one key, or a named cell, which has no key; `configs` has one configuration per seed."""

    key: str
    value: Any
    configs: tuple[RunConfig, ...]

    @property
    def label(self) -> str:
        return f"{self.key}={self.value}" if self.key else str(self.value)


def load_sweep(path: str | Path, overrides: Sequence[str] = ()) -> tuple[SweepConfig, list[Cell]]:
    """Read and resolve everything before anything runs; `a.b=c` overrides the sweep's base, or its run_dir.

    Cells with the same resolved configuration, such as the base's own value under two keys, share their runs.
    Raises ConfigError with one line.
    """
    own = [text for text in overrides if text.startswith("run_dir=")]
    overrides = [text for text in overrides if text not in own]
    # What is varied is read again with each run's configuration, where a `${NAME}` gets its value.
    tree = read_tree(path, own, kept=("base", "vary", "cells"))
    sweep = validated(SweepConfig, tree, source=str(path))
    overridden = {text.partition("=")[0] for text in overrides}
    of_cells = {key for _, _, settings in sweep.settings_of_cells for key in settings}
    if taken := (overridden & {*of_cells, *SEEDS}) | (of_cells & set(SEEDS)):
        raise ConfigError(
            f"{path}: {', '.join(sorted(taken))} is set by the sweep itself, under `vary`, `cells` or `seeds`"
        )
    base = [*(f"{key}={json.dumps(value)}" for key, value in sweep.base.items()), *overrides]
    folders: dict[str, str] = {}
    cells = []
    for key, value, settings in sweep.settings_of_cells:
        configs = []
        for seed in sweep.seeds:
            of_cell = [f"{name}={json.dumps(set_to)}" for name, set_to in settings.items()]
            of_seed = [f"{name}={seed}" for name in SEEDS]
            config = load_config(Path(path).parent / sweep.config, [*base, *of_cell, *of_seed])
            same = json.dumps(config.model_dump(mode="json"), sort_keys=True)
            folder = folders.setdefault(same, f"{sweep.run_dir}/{_folder(key, value)}/seed-{seed}")
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


def _folder(key: str, value: Any) -> str:
    return re.sub(r"[^\w.=+-]+", "_", f"{key}={value}" if key else str(value))
