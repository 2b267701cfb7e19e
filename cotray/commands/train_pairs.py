"""cotray train_pairs -c CONFIG --data FILE --out FOLDER [--overwrite] [KEY=VALUE ...]

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

from cotray.commands.command import add_config, add_overrides, add_overwrite_and_wait, reported


def main(argv: Sequence[str] | None = None, *, prog: str = "cotray train_pairs") -> int:
    arguments = parser(prog).parse_intermixed_args(argv)
    return reported(lambda: _train(arguments))


def parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description="Train a model to write question-answer pairs.")
    add = parser.add_argument
    add_config(parser, text="a YAML file with the model and its training")
    add(
        "--data",
        required=True,
        metavar="FILE",
        help="a file or folder (.json, .jsonl, .parquet, .csv; local or s3://) or hf:ID",
    )
    add("--out", required=True, metavar="FOLDER", help="for the model; local or s3://")
    add_overwrite_and_wait(parser, "make again what another configuration made")
    add_overrides(parser, "such as training.epochs=1")
    return parser


def _train(arguments: argparse.Namespace) -> str:
    from cotray.config.pairs import load_pairs

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
