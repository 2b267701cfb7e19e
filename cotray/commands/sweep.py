"""cotray sweep -c SWEEP.yaml [--overwrite] [KEY=VALUE ...]: an ablation, over several seeds.

    config: strategyqa-smollm2.yaml                 # what is varied, relative to this file
    run_dir: runs/ablation
    base: {method: contrast-wrong+counterfactual, data.limit: 500}
    vary:
      teacher.decoding.weight: [0, 0.25, 0.5, 0.75, 1]
      student.training.tags: ["on", "off", shuffled]
    seeds: [1, 2, 3]                                # of the student's training

The same command goes on from what is done. Exit codes as of `run`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from cotray.commands.command import add_config, add_overrides, add_overwrite_and_wait, reported


def main(argv: Sequence[str] | None = None, *, prog: str = "cotray sweep") -> int:
    arguments = parser(prog).parse_intermixed_args(argv)
    return reported(lambda: _sweep(arguments))


def parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description="Runs that differ in one key each, over several seeds."
    )
    add_config(parser, metavar="SWEEP", text="a YAML file that says what is varied")
    add_overwrite_and_wait(
        parser, "delete and make again what changed of every run, and what follows from it"
    )
    add_overrides(parser, "of every run, such as data.limit=48")
    return parser


def _sweep(arguments: argparse.Namespace) -> str:
    from cotray.config.sweep import load_sweep

    config, cells = load_sweep(arguments.config, arguments.overrides)
    from cotray.stages.sweep import sweep
    from cotray.storage.filesystems import environment

    os.environ.update(environment(cells[0].configs[0].storage))
    return sweep(config, cells, overwrite=arguments.overwrite, wait=arguments.wait)
