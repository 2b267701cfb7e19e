"""python -m jobs.train_pairs -c CONFIG --data FILE --out FOLDER [--overwrite] [KEY=VALUE ...]

A model learns to write question-answer pairs about a text, for QUALS. Data: SQuAD's JSON or its Hugging Face
layout, or rows with passage (or context), question and answer. `assess` uses the model with
assessing.model=FOLDER assessing.num_demonstrations=0. The same command goes on from what is done. Exit codes:
0 done, 1 training failed, 2 wrong usage, configuration or data.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from functools import partial

from cotray.cli import reported
from cotray.config.pairs import load_pairs


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m jobs.train_pairs", description="Train a model to write question-answer pairs."
    )
    add = parser.add_argument
    add("-c", "--config", required=True, metavar="CONFIG", help="a YAML file; see jobs/pairs/")
    add(
        "--data",
        required=True,
        metavar="FILE",
        help="a file or folder (.json, .jsonl, .parquet, .csv; local or s3://) or hf:ID",
    )
    add("--out", required=True, metavar="FOLDER", help="for the model; local or s3://")
    add("--overwrite", action="store_true", help="make again what another configuration made")
    add("--wait", action="store_true", help="until another process has ended that does the same here")
    add("overrides", nargs="*", metavar="KEY=VALUE", help="such as training.epochs=1")
    arguments = parser.parse_intermixed_args(argv)
    return reported(lambda: _train(arguments))


def _train(arguments: argparse.Namespace) -> str:
    config = load_pairs(arguments.config, arguments.overrides)
    from cotray.stages.run import wait_until_free
    from cotray.stages.train_pairs import train_pairs
    from cotray.storage.filesystems import environment

    os.environ.update(environment(config.storage))
    work = partial(train_pairs, config, arguments.data, arguments.out, overwrite=arguments.overwrite)
    manifest = wait_until_free(arguments.wait, work)
    metrics = manifest.metrics
    dead = f", {manifest.num_dead} dead letters (in dead_letter/)" if manifest.num_dead else ""
    loss = "none" if metrics["best_dev_loss"] is None else f"{metrics['best_dev_loss']:.4f}"
    return (
        f"{arguments.out}: {manifest.num_in} in, {manifest.num_out} out{dead}\n"
        f"{metrics['train']} pairs to learn, {metrics['dev']} in dev, {metrics['num_steps']} steps, "
        f"dev loss {loss}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
