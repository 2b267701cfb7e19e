"""Rows of a stage -> token ids that a model learns from, shard by shard on the cluster: a stage of its own.

Every shard of the input is rendered, tokenized, measured and written by one task, whole or not at all. The
files are Parquet like those of every stage: the same code checks, repairs and deletes them, on S3 too.
Training maps one Arrow file per node, which is made from them (cotray/training/node_examples.py).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from typing import Any

import pyarrow as pa

from cotray.config import ModelConfig, RunConfig
from cotray.models.locations import weights_identity
from cotray.pools.progress import progress_bar
from cotray.prompts.student import student_prompt_version
from cotray.records import Record, TrainExample
from cotray.storage.folder import VERSION_KEY
from cotray.storage.lease import NO_FENCE, Fence
from cotray.storage.manifest import FileEntry, Manifest
from cotray.storage.run_folder import VERB_OF, DeadLetter, RunFolder
from cotray.training.renderers import Renderer, StudentRenderer

COUNTS_KEY = b"cotray.counts"
ROWS_IN_THIS_PROCESS = 4096
"""Fewer rows than that are not worth the start of other processes."""
TASKS_AHEAD = 2
"""Waiting for each CPU of the cluster, so that none is idle while the driver looks."""


@dataclass(frozen=True)
class Source:
    """Rows to learn from. `version` is that of the stage's rows; others are refused."""

    stage: str
    record: type[Record]
    render: Renderer
    version: str | None = None


@dataclass(frozen=True)
class _Work:
    """What every task gets, through the object store."""

    root: str
    stage: str
    version: str
    sources: tuple[Source, ...]
    model: ModelConfig
    max_length: int
    fence: Fence


def make_examples(
    folder: RunFolder,
    stage: str,
    sources: Sequence[Source],
    model: ModelConfig,
    *,
    max_length: int,
    settings: dict[str, Any],
    input: str,
    fence: Fence = NO_FENCE,
    label: str,
) -> Manifest:
    """The stage's manifest, after what of it was not there has been made.

    Its metrics count the examples as "SPLIT-KIND", `in` and `skipped` rows. `settings` and `input` are all
    that the examples depend on; what was made from others is deleted.
    """
    if folder.begin(stage, settings=settings, input=input, overwrite=True) == "done":
        return folder.require(stage, VERB_OF[stage])
    started = folder.started(stage)
    assert started is not None and started.version is not None
    work = _Work(folder.root, stage, started.version, tuple(sources), model, max_length, fence)
    shards = [
        (index, path.rpartition("/")[2].removesuffix(".parquet"))
        for index, source in enumerate(sources)
        for path in folder.parquet_files(source.stage)
    ]
    counts, entries = Counter[str](), list[FileEntry]()
    with progress_bar(label, total=len(shards), unit="shard") as bar:
        for made, entry in _made(work, shards, folder):
            counts.update(made)
            entries.append(entry)
            bar.update()
    fence.check()
    num_in, num_dead = counts.pop("in", 0), counts.pop("dead", 0)
    num_out = sum(n for name, n in counts.items() if "-" in name)
    return folder.finish(Manifest(stage, settings, input, num_in, num_out, num_dead, dict(counts)), entries)


def _made(
    work: _Work, shards: Sequence[tuple[int, str]], folder: RunFolder
) -> Iterator[tuple[dict[str, int], FileEntry]]:
    few = shards if len(shards) < 5 else ()
    if few and sum(_num_rows(work, folder, index, name) for index, name in few) <= ROWS_IN_THIS_PROCESS:
        yield from (_make_shard(work, index, name) for index, name in shards)
        return
    import ray

    work_ref = ray.put(work)
    make = ray.remote(num_cpus=1, max_retries=5, scheduling_strategy="SPREAD")(_make_shard)
    waiting, under_way = iter(shards), set[Any]()
    while True:
        num_wanted = TASKS_AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
        for index, name in waiting:
            under_way.add(make.remote(work_ref, index, name))
            if len(under_way) >= num_wanted:
                break
        if not under_way:
            return
        done, under_way = ray.wait(list(under_way), num_returns=1)
        under_way = set(under_way)
        yield from ray.get(done)


def _num_rows(work: _Work, folder: RunFolder, index: int, shard: str) -> int:
    return folder.num_rows(f"{work.sources[index].stage}/{shard}.parquet")


def _make_shard(work: _Work, index: int, shard: str) -> tuple[dict[str, int], FileEntry]:
    """Counts of one shard's examples, and its file; one that is there already is only looked at."""
    folder, source = RunFolder(work.root), work.sources[index]
    name = f"{source.stage}-{shard}"
    path = f"{work.stage}/{name}.parquet"
    said = folder.metadata(path) if folder.exists(path) else {}
    if said.get(VERSION_KEY) == work.version.encode():
        return json.loads(said[COUNTS_KEY]), folder.entry(work.stage, f"{name}.parquet")
    columns = source.render.columns
    table = folder.read_table(f"{source.stage}/{shard}.parquet", columns, version=source.version)
    rows = [source.record.from_row(row) for row in table.to_pylist()]
    batch, letters, counts = encoded_rows(rows, source.render, work.model, work.max_length, stage=work.stage)
    work.fence.check()
    folder.write_dead_letters(work.stage, letters, shard=name)
    entry = folder.write_table(
        path,
        pa.Table.from_batches([batch]),
        version=work.version,
        metadata={COUNTS_KEY: json.dumps(counts).encode()},
    )
    return counts, entry


def encoded_rows(
    rows: Sequence[Record], render: Renderer, model: ModelConfig, max_length: int, *, stage: str
) -> tuple[pa.RecordBatch, list[DeadLetter], dict[str, int]]:
    """The examples of some rows as token ids, those that cannot be learned from, and how many there are.

    Nothing is ever truncated, because a cut target would lose its answer.
    """
    from cotray.models.sequences import Encoded, encode_all
    from cotray.training.examples import encoded_batch

    tokenizer, is_encoder_decoder = tokenizer_of(model.model, model.revision)
    kept, encoded, letters = list[TrainExample](), list[Encoded](), list[DeadLetter]()
    counts = Counter({"in": len(rows)})
    units = list(render(rows, is_encoder_decoder=is_encoder_decoder))
    ids_of_all = iter(encode_all([*chain(*units)], tokenizer, is_encoder_decoder=is_encoder_decoder))
    for examples in units:
        ids = [*islice(ids_of_all, len(examples))]
        if all(_length(one, is_encoder_decoder) <= max_length for one in ids):
            kept += examples
            encoded += ids
            counts.update(f"{e.split}-{e.kind}" for e in examples)
        else:
            first = examples[0]
            reason = f"longer than training.max_length ({first.kind})"
            letters.append(DeadLetter(stage, first.id, reason, first.source + first.target))
    counts["dead"] = len(letters)
    counts["skipped"] = sum(bool(getattr(row, "error", "")) for row in rows)
    return encoded_batch(kept, encoded), letters, dict(counts)


def _length(encoded: Any, is_encoder_decoder: bool) -> int:
    lengths = len(encoded.source), len(encoded.target)
    return max(lengths) if is_encoder_decoder else sum(lengths)


def kinds_of(config: RunConfig) -> tuple[str, ...]:
    """Which rationales a student learns from."""
    return ("factual", "counterfactual") if config.counterfactual_weight > 0 else ("factual",)


def example_settings(config: RunConfig) -> dict[str, Any]:
    """What a student's examples depend on, beside the rationales."""
    student, training = config.student, config.student.training
    return {
        "model": student.model,
        "revision": student.revision,
        "weights": weights_identity(student.model),
        "max_length": training.max_length,
        "seed": training.seed_or(config.seed),
        "prompts": student_prompt_version(training.tags),
        "kinds": kinds_of(config),
        "rules": [rule.model_dump() for rule in config.assessing.rules],
    }


def columns_of(config: RunConfig) -> Sequence[str]:
    """Of assessments, what the rules and the student's examples need."""
    return (*StudentRenderer.columns, *(rule.score for rule in config.assessing.rules))


@lru_cache(maxsize=2)
def tokenizer_of(model: str, revision: str) -> tuple[Any, bool]:
    """The model's tokenizer, and whether it is an encoder-decoder; loads no weights."""
    from transformers import AutoConfig

    from cotray.models.loading import load_tokenizer
    from cotray.models.locations import model_path

    tokenizer = load_tokenizer(model, revision=revision)
    config = AutoConfig.from_pretrained(model_path(model), revision=revision)
    return tokenizer, bool(config.is_encoder_decoder)
