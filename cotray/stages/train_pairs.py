"""train_pairs: passages with questions and answers -> a model that writes and scores pairs for QUALS.

The model lies in the output folder itself, in Hugging Face format; the manifest in `training/` below it,
and rows that could not be learned from in `dead_letter/`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice

from cotray.config import DataConfig
from cotray.config.pairs import PairsConfig
from cotray.data.passages import STAGE, PassagePair, each_pair
from cotray.data.readers import input_fingerprint, row_text
from cotray.errors import DataError
from cotray.pools.progress import training_progress
from cotray.pools.ray_cluster import cluster
from cotray.pools.train_workers import PLACEMENT, FitReport, fit
from cotray.prompts.qa_pairs import (
    QuestionAnswer,
    pair_example,
    pair_prompt_version,
    pair_target,
    parse_pair,
)
from cotray.quality.pair_filter import has_words
from cotray.records import TrainExample
from cotray.seeds import digest
from cotray.storage.lease import Fence, lease
from cotray.storage.manifest import Manifest
from cotray.storage.run_folder import CHECKPOINTS, DeadLetter, RunFolder
from cotray.training.examples import load_tokenizer_of


def train_pairs(config: PairsConfig, data: str, out: str, *, overwrite: bool = False) -> Manifest:
    """Train on the pairs at `data`, or return the manifest if `out` has been made from them.

    `num_in` counts the distinct answers of all questions, and rows without a question that can be read.
    """
    with lease(out, "train_pairs") as fence:
        return _train_pairs(config, fence, data, out, overwrite=overwrite)


def _train_pairs(config: PairsConfig, fence: Fence, data: str, out: str, *, overwrite: bool) -> Manifest:
    folder = RunFolder(out)
    settings = config.model_dump(
        mode="json", exclude={"ray": True, "storage": True, "training": PLACEMENT - {"seed"}}
    ) | {"prompt": pair_prompt_version(0)}
    source = input_fingerprint(DataConfig(path=data))
    if folder.begin(STAGE, settings=settings, input=source, overwrite=overwrite) == "done":
        return folder.require(STAGE, "train_pairs")
    try:
        examples = examples_of(data, config)
        folder.write_dead_letters(STAGE, examples.dead)
        examples.check(data)
    except DataError:
        folder.abandon(STAGE)
        raise
    report = _fit(examples, config, folder.root, fence)
    fence.check()
    folder.append_metrics({f"train/{key}": value for key, value in row.items()} for row in report.history)
    counts = {"train": len(examples.train), "dev": len(examples.dev)}
    num_out, num_dead = sum(counts.values()), len(examples.dead)
    metrics = counts | report.metrics
    manifest = folder.finish(
        Manifest(STAGE, settings, source, num_out + num_dead, num_out, num_dead, metrics)
    )
    folder.delete(CHECKPOINTS)  # which lie beside the model, outside the stage's folder
    return manifest


@dataclass(frozen=True)
class Examples:
    """What is learned, what only measures it, and what is neither."""

    train: Sequence[TrainExample]
    dev: Sequence[TrainExample]
    dead: Sequence[DeadLetter]

    def check(self, data: str) -> None:
        if not self.train:
            raise DataError(
                f"{data}: no pair to train on ({len(self.dev)} in dev, {len(self.dead)} dead letters); "
                "repair the rows (see dead_letter/), or lower dev_fraction"
            )


def examples_of(data: str, config: PairsConfig) -> Examples:
    """Rendered, split by passage, and none longer than training.max_length."""
    from cotray.training.batches import split_by_length

    used, dead = list[PassagePair](), list[DeadLetter]()
    for pair in islice(_usable(data, dead), config.limit or None):
        used.append(pair)
    tokenizer, is_encoder_decoder = load_tokenizer_of(config)
    kept: dict[bool, list[TrainExample]] = {}
    for is_dev in (False, True):
        rendered = [
            pair_example(pair.id, pair.passage, QuestionAnswer(pair.question, pair.answer))
            for pair in used
            if is_in_dev(pair.passage, config) == is_dev
        ]
        kept[is_dev], dropped = split_by_length(
            rendered, tokenizer, is_encoder_decoder=is_encoder_decoder, max_length=config.training.max_length
        )
        reason = "longer than training.max_length"
        dead += [DeadLetter(STAGE, one.id, reason, one.source + one.target) for one in dropped]
    return Examples(kept[False], kept[True], dead)


def is_in_dev(passage: str, config: PairsConfig) -> bool:
    """Drawn by the passage alone: no passage has pairs on both sides, whatever the other rows are."""
    return digest(config.seed, passage, "split") / 2**64 < config.dev_fraction


def _usable(data: str, dead: list[DeadLetter]) -> Iterator[PassagePair]:
    """The pairs that QUALS would keep; the others go to `dead`."""
    for pair in each_pair(data):
        if isinstance(pair, DeadLetter):
            dead.append(pair)
        elif fault := _fault(pair):
            dead.append(DeadLetter(STAGE, pair.id, fault, row_text(asdict(pair))))
        else:
            yield pair


def _fault(pair: PassagePair) -> str:
    if not has_words(pair.passage, pair.answer):
        return "answer is not words of the passage"
    if parse_pair(pair_target(QuestionAnswer(pair.question, pair.answer))) is None:
        return "the mark between question and answer occurs in one of them"
    return ""


def _fit(examples: Examples, config: PairsConfig, out: str, fence: Fence) -> FitReport:
    from cotray.training.batches import StudentBatches

    training, seed = config.training, config.training.seed_or(config.seed)
    batches = StudentBatches(examples.train, batch_size=training.batch_size, alpha=0.0, seed=seed)
    with cluster(config.ray, config.storage):
        return training_progress(
            lambda on_metrics: fit(
                batches,
                examples.dev,
                config,
                training,
                out,
                alpha=0.0,
                seed=seed,
                fence=fence,
                on_metrics=on_metrics,
            ),
            "train_pairs",
        )
