"""train_pairs: passages with questions and answers -> a model that writes and scores pairs for QUALS.

The model lies in the output folder itself, in Hugging Face format; beside it are the pairs, what is learned
of them (`examples/`), rows that could not be learned from (`dead_letter/`), and the manifest in `training/`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from typing import Any

from cotray.config import DataConfig
from cotray.config.pairs import PairsConfig
from cotray.data.passages import STAGE, each_pair
from cotray.data.prepare import ShardWriter
from cotray.data.readers import input_fingerprint, row_text
from cotray.errors import DataError
from cotray.pools.placement import until_placed
from cotray.pools.ray_cluster import cluster
from cotray.pools.train_workers import fit
from cotray.pools.training_progress import training_progress
from cotray.prompts.qa_pairs import QuestionAnswer, pair_prompt_version, pair_target, parse_pair
from cotray.quality.pair_filter import has_words
from cotray.records import PassagePair
from cotray.seeds import digest
from cotray.stages.examples import Source, make_examples
from cotray.storage.lease import Fence, lease
from cotray.storage.manifest import Manifest, fingerprint
from cotray.storage.run_folder import CHECKPOINTS, DeadLetter, RunFolder
from cotray.tracking.tracking import check_tracking
from cotray.training.node_examples import StageExamples
from cotray.training.renderers import PairRenderer

TRAINING = "training"


def train_pairs(config: PairsConfig, data: str, out: str, *, overwrite: bool = False) -> Manifest:
    """Train on the pairs at `data`, or return the manifest if `out` has been made from them.

    `num_in` counts the distinct answers of all questions, and rows without a question that can be read.
    """
    check_tracking(config.training)
    with lease(out, "train_pairs") as fence:
        return _train_pairs(config, fence, data, out, overwrite=overwrite)


def _train_pairs(config: PairsConfig, fence: Fence, data: str, out: str, *, overwrite: bool) -> Manifest:
    from cotray.training.batches import StudentBatches

    folder, training = RunFolder(out), config.training
    settings = config.model_dump(mode="json", exclude={"ray", "storage", "training"}) | {
        "training": training.settings(with_seed=True),
        "prompt": pair_prompt_version(0),
    }
    source = input_fingerprint(DataConfig(path=data))
    if folder.begin(TRAINING, settings=settings, input=source, overwrite=overwrite) == "done":
        return folder.require(TRAINING, "train_pairs")
    try:
        pairs = write_pairs(config, data, folder, source)
        if not pairs.num_out:
            raise DataError(_nothing(data, 0, pairs.num_dead))
    except DataError:
        folder.abandon(TRAINING)
        raise
    with cluster(config.ray, config.storage):
        examples = pair_examples(config, folder, pairs, fence)
        num_train, num_dev = (examples.metrics.get(f"{split}-factual", 0) for split in ("train", "dev"))
        num_dead = pairs.num_dead + examples.num_dead
        if not num_train:
            folder.abandon(TRAINING)
            raise DataError(_nothing(data, num_dev, num_dead))
        seed = training.seed_or(config.seed)
        report = training_progress(
            lambda on_metrics: fit(
                StageExamples(folder.root, examples.stage, examples.fingerprint),
                partial(
                    StudentBatches,
                    batch_size=training.batch_size,
                    batch_tokens=training.batch_tokens,
                    alpha=0.0,
                    seed=seed,
                ),
                config,
                training,
                folder.root,
                alpha=0.0,
                seed=seed,
                fence=fence,
                on_metrics=on_metrics,
            ),
            "train_pairs",
            folder,
            TRAINING,
            training,
            settings,
            until_ready=until_placed("training", training),
        )
    fence.check()
    folder.append_metrics({f"train/{key}": value for key, value in row.items()} for row in report.history)
    metrics = {"train": num_train, "dev": num_dev} | report.metrics
    num_out = num_train + num_dev
    manifest = folder.finish(
        Manifest(TRAINING, settings, source, num_out + num_dead, num_out, num_dead, metrics)
    )
    folder.delete(CHECKPOINTS)  # which lie beside the model, outside the stage's folder
    return manifest


def _nothing(data: str, num_dev: int, num_dead: int) -> str:
    return (
        f"{data}: no pair to train on ({num_dev} in dev, {num_dead} dead letters); repair the rows (see "
        "dead_letter/), or lower dev_fraction"
    )


def write_pairs(config: PairsConfig, data: str, folder: RunFolder, source: str) -> Manifest:
    """pairs/: what a model can learn from, with its split; the rest are dead letters."""
    settings: dict[str, Any] = config.model_dump(mode="json", include={"seed", "limit", "dev_fraction"})
    state = folder.begin(STAGE, settings=settings, input=source, overwrite=True)
    if state == "done":
        return folder.require(STAGE, "train_pairs")
    if state == "resume":
        folder.restart(STAGE, settings=settings, input=source)
    version = fingerprint(settings, source)
    pairs = ShardWriter[PassagePair](
        lambda name, rows: folder.write_records(f"{STAGE}/{name}.parquet", rows, PassagePair, version=version)
    )
    letters = ShardWriter[DeadLetter](lambda name, rows: folder.write_dead_letters(STAGE, rows, shard=name))
    num_dead = num_pairs = 0

    def usable() -> Iterator[PassagePair]:
        nonlocal num_dead
        for row in _checked(data):
            if isinstance(row, DeadLetter):
                num_dead += 1
                letters.add([row])
            else:
                yield row

    for pair in islice(usable(), config.limit or None):
        num_pairs += 1
        pairs.add([replace(pair, split="dev" if is_in_dev(pair.passage, config) else "train")])
    pairs.close()
    letters.close()
    return folder.finish(Manifest(STAGE, settings, source, num_pairs + num_dead, num_pairs, num_dead))


def pair_examples(config: PairsConfig, folder: RunFolder, pairs: Manifest, fence: Fence) -> Manifest:
    """examples/: the pairs as token ids, none longer than training.max_length."""
    settings = config.model_dump(mode="json", include={"model", "revision"})
    return make_examples(
        folder,
        "examples",
        [Source(STAGE, PassagePair, PairRenderer(), pairs.version)],
        config,
        max_length=config.training.max_length,
        settings=settings | {"max_length": config.training.max_length, "prompt": pair_prompt_version(0)},
        input=pairs.fingerprint,
        fence=fence,
        label="train_pairs: examples",
    )


def is_in_dev(passage: str, config: PairsConfig) -> bool:
    """Drawn by the passage alone: no passage has pairs on both sides, whatever the other rows are."""
    return digest(config.seed, passage, "split") / 2**64 < config.dev_fraction


def _checked(data: str) -> Iterator[PassagePair | DeadLetter]:
    """The pairs that QUALS would keep, and why the others are not used."""
    for pair in each_pair(data):
        fault = "" if isinstance(pair, DeadLetter) else _fault(pair)
        yield DeadLetter(STAGE, pair.id, fault, row_text(asdict(pair))) if fault else pair


def _fault(pair: PassagePair) -> str:
    if not has_words(pair.passage, pair.answer):
        return "answer is not words of the passage"
    if parse_pair(pair_target(QuestionAnswer(pair.question, pair.answer))) is None:
        return "the mark between question and answer occurs in one of them"
    return ""
