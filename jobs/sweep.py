"""python -m jobs.sweep -c SWEEP.yaml [--overwrite] [KEY=VALUE ...]: an ablation, over several seeds.

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

from cotray.cli import reported
from cotray.config.sweep import load_sweep


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m jobs.sweep", description="Runs that differ in one key each, over several seeds."
    )
    parser.add_argument(
        "-c", "--config", required=True, metavar="SWEEP", help="a YAML file; see jobs/sweeps/"
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="delete and make again what changed of every run, and what follows from it",
    )
    what = "until another process has ended that does the same here"
    parser.add_argument("--wait", action="store_true", help=what)
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="of every run, such as data.limit=48"
    )
    arguments = parser.parse_intermixed_args(argv)

    def work() -> str:
        config, cells = load_sweep(arguments.config, arguments.overrides)
        from cotray.stages.sweep import sweep
        from cotray.storage.filesystems import environment

        os.environ.update(environment(cells[0].configs[0].storage))
        return sweep(config, cells, overwrite=arguments.overwrite, wait=arguments.wait)

    return reported(work)


if __name__ == "__main__":
    raise SystemExit(main())
