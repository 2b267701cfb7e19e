"""What ConSeq's second phase learns and unlearns, and how likely both texts are before and after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from cotray.config import RunConfig
from cotray.records import Rationale
from cotray.stages.examples import Source, example_settings, kinds_of, make_examples
from cotray.storage.lease import Fence
from cotray.storage.manifest import Manifest
from cotray.storage.run_folder import RunFolder
from cotray.training.node_examples import StageExamples
from cotray.training.renderers import Key, RejectedRenderer, StudentRenderer, key_of

if TYPE_CHECKING:
    from cotray.training.conseq import Pairs
    from cotray.training.examples import Rows


def make_conseq_examples(
    config: RunConfig,
    folder: RunFolder,
    source: str,
    weights: Mapping[Key, float],
    pairs: Pairs,
    fence: Fence,
    label: str,
) -> Manifest:
    """conseq_examples/: of each selected question what is learned and what unlearned, and counterfactuals."""
    training = config.student.training
    assert config.student.conseq is not None
    seed, kinds = training.seed_or(config.seed), kinds_of(config)
    chosen = frozenset(key_of(pair.chosen) for pair in pairs.selected)
    rejected = frozenset(key_of(pair.rejected) for pair in pairs.selected)
    assessments, samples = folder.require("assessments", "assess"), folder.require("samples", "train")
    return make_examples(
        folder,
        "conseq_examples",
        [
            Source(
                "assessments",
                Rationale,
                StudentRenderer(training.tags, seed, kinds, weights, only=chosen),
                assessments.version,
            ),
            Source("samples", Rationale, RejectedRenderer(training.tags, seed, rejected), samples.version),
        ],
        config.student,
        max_length=training.max_length,
        settings=example_settings(config) | config.student.conseq.model_dump(include={"score", "share"}),
        input=source,
        fence=fence,
        label=f"{label}: examples",
    )


def both_sides(examples: StageExamples) -> tuple[Rows, Rows]:
    """Chosen and rejected rationales of the selected questions of which neither is too long."""
    from cotray.training.batches import paired

    opened = examples.opened()
    return paired(opened.rows("factual"), opened.rows("rejected"))


def rationale_logprobs(
    config: RunConfig, folder: RunFolder, examples: StageExamples
) -> dict[str, dict[str, float]]:
    """Mean natural-log probability per rationale token of the chosen and of the rejected texts, under the
    student of the first phase (before) and of the second (after)."""
    import ray

    pool = config.assessing.all_pools[0]
    measure = ray.remote(num_cpus=pool.num_cpus, num_gpus=pool.num_gpus, label_selector=pool.label_selector)(
        _mean_logprobs
    )
    models = {"before": folder.uri("mle_student"), "after": folder.uri("student")}
    return ray.get(measure.remote(models, examples, config.student.training.micro_batch_size))


def _mean_logprobs(
    models: Mapping[str, str], examples: StageExamples, micro_batch_size: int
) -> dict[str, dict[str, float]]:
    """Per rationale token, in float32: side -> model -> mean."""
    from cotray.models.loading import load_for_inference
    from cotray.training.step import Collator, evaluate

    sides = dict(zip(("chosen", "rejected"), both_sides(examples), strict=True))
    means: dict[str, dict[str, float]] = {side: {} for side in sides}
    for when, name in models.items():
        model, tokenizer = load_for_inference(name, dtype="float32")
        collator = Collator(model, tokenizer, micro_batch_size)
        for side, rows in sides.items():
            unweighted = [replace(row, weight=1.0) for row in rows]
            means[side][when] = -evaluate(model, collator.each(unweighted))
    examples.forget()
    return means
