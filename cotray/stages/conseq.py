"""ConSeq as the steps of `train` after the first phase: the student writes, and unlearns the worst of it.

mle_student/ + requests/ -> samples/, scored; samples/ + assessments/ + mle_student/ -> student/.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from cotray.config import RunConfig
from cotray.config.assessing import MEASURE_OF
from cotray.config.conseq import ConSeqConfig
from cotray.errors import DataError
from cotray.pools.placement import until_placed
from cotray.pools.pool import run_pool
from cotray.pools.replica import PoolStage, Process
from cotray.pools.sorted_batches import in_sorted_batches
from cotray.pools.train_workers import fit
from cotray.pools.training_progress import training_progress
from cotray.prompts.student import inference_tag
from cotray.quality.selection import describe_selection, select
from cotray.quality.summary import quality
from cotray.records import Assessment, TeacherRequest
from cotray.stages.assess import current_assessments, load_assessor
from cotray.stages.assess import settings_of as assess_settings
from cotray.stages.conseq_examples import both_sides, make_conseq_examples, rationale_logprobs
from cotray.stages.examples import columns_of
from cotray.storage.lease import Fence
from cotray.storage.manifest import Manifest, fingerprint
from cotray.storage.run_folder import DeadLetter, RunFolder
from cotray.storage.shards import Shards
from cotray.training.node_examples import StageExamples
from cotray.training.renderers import weights_of

if TYPE_CHECKING:
    from cotray.training.conseq import Pairs

QUESTIONS_PER_CALL = 16
"""Given to a replica at a time, which writes num_samples rationales for each and then scores them."""


def second_input(config: RunConfig, folder: RunFolder, first: Manifest) -> str:
    """What the second phase is made of, told before any of it is: `first` needs only settings and input."""
    settings, source = _samples_of(config, first, folder.require("requests", "prepare"))
    return fingerprint(fingerprint(settings, source), current_assessments(config, folder).fingerprint)


def check_scores(config: RunConfig, folder: RunFolder) -> None:
    """Raises DataError where no rationale that the rules leave in has the score to rank by."""
    score = _section(config).score
    rows = [row for row in folder.read_records("assessments", Assessment) if not row.error]
    weights = select(rows, config.assessing.rules).weights
    chosen = [row for row in _learned(rows, weights) if row.kind == "factual"]
    if chosen and all(getattr(row, score) is None for row in chosen):
        raise DataError(
            f"{folder.uri('assessments')}: none of the {len(chosen)} rationales to train on has {score}, by "
            "which ConSeq is to rank them. Choose another student.conseq.score: novel needs no facts, "
            "num_words neither facts nor question-answer pairs"
        )


def draw_samples(
    config: RunConfig, folder: RunFolder, fence: Fence, first: Manifest, *, overwrite: bool, label: str
) -> Manifest:
    """Write and score samples of every factual training question, those that are not there yet."""
    conseq, requests = _section(config), folder.require("requests", "prepare")
    settings, source = _samples_of(config, first, requests)
    if folder.begin("samples", settings=settings, input=source, overwrite=overwrite) == "done":
        return folder.require("samples", "train")
    version = fingerprint(settings, source)
    shards = Shards(
        folder.root,
        "requests",
        "samples",
        Assessment,
        version,
        _is_factual_train,
        conseq.num_samples,
        fence=fence,
        source_version=requests.version,
    )
    stage = PoolStage(
        shards,
        TeacherRequest,
        build=partial(_load, config, folder.uri(first.stage)),
        failed=partial(_failed, config),
        dead_letter=_dead_letter,
        max_error_rate=config.assessing.max_error_rate,
    )
    total = shards.num_wanted()
    counts, files, work = run_pool(
        stage, total=total, config=config.assessing, batch_size=QUESTIONS_PER_CALL, label=label
    )
    fence.check()
    rows = (row for row in folder.read_records("samples", Assessment) if not row.error)
    num_dead = counts["dead_letters"]
    metrics = quality(rows, seed=config.seed)
    num_good = counts["rows"] - num_dead
    manifest = Manifest("samples", settings, source, total, num_good, num_dead, metrics)
    return folder.finish(manifest, files, work)


def second_phase(
    config: RunConfig, folder: RunFolder, fence: Fence, settings: dict[str, Any], source: str, *, label: str
) -> Manifest:
    """Train on the selected pairs, from the first phase's weights, into student/.

    Without a dev loss, which says nothing about what is unlearned: the last weights are kept, as published.
    """
    from cotray.training.batches import ConSeqBatches

    training, alpha = config.student.training, config.counterfactual_weight
    seed = training.seed_or(config.seed)
    rules = config.assessing.rules
    columns = (*columns_of(config), _section(config).score)
    rows = [row for row in folder.read_records("assessments", Assessment, columns) if not row.error]
    selection = select(rows, rules)
    pairs = _paired(config, folder, _learned(rows, selection.weights))
    weights = weights_of(rows, selection.weights)
    examples = make_conseq_examples(config, folder, source, weights, pairs, fence, label)
    found = StageExamples(folder.root, examples.stage, examples.fingerprint)
    num_selected = len(both_sides(found)[0])
    if not num_selected:
        raise DataError(_nothing(config, folder, pairs))

    report = training_progress(
        lambda on_metrics: fit(
            found,
            partial(
                ConSeqBatches,
                batch_size=training.batch_size,
                batch_tokens=training.batch_tokens,
                alpha=alpha,
                seed=seed,
            ),
            config.student.model_copy(
                update={"model": folder.uri("mle_student"), "revision": "main", "num_layers": 0}
            ),
            training.model_copy(update=_section(config).model_dump(include={"epochs", "learning_rate"})),
            folder.uri("student"),
            alpha=alpha,
            seed=seed,
            has_dev=False,
            tag=inference_tag(training.tags),
            fence=fence,
            on_metrics=on_metrics,
        ),
        label,
        folder,
        "student",
        training,
        settings,
        until_ready=until_placed("student.training", training),
    )
    fence.check()
    folder.append_metrics({f"conseq/{key}": value for key, value in row.items()} for row in report.history)
    figures = {"questions": pairs.num_questions, "scored": pairs.num_scored, "selected": num_selected}
    num_counterfactual = examples.metrics.get("train-counterfactual", 0)
    return folder.finish(
        Manifest(
            stage="student",
            settings=settings,
            input=source,
            num_in=len(rows),
            num_out=num_selected + num_counterfactual,
            num_dead=examples.num_dead,
            metrics={"factual": num_selected, "counterfactual": num_counterfactual, "dev": 0}
            | report.metrics
            | {"conseq": figures | {"logprob": rationale_logprobs(config, folder, found)}}
            | ({"selection": describe_selection(rows, rules, selection)} if rules else {}),
        ),
        report.files,
        report.work,
    )


def _section(config: RunConfig) -> ConSeqConfig:
    assert config.student.conseq is not None
    return config.student.conseq


def _scoring(config: RunConfig) -> RunConfig:
    """The configuration of an assessor that measures only what samples are ranked by."""
    update = {"measures": (MEASURE_OF[_section(config).score],), "rules": ()}
    return config.model_copy(update={"assessing": config.assessing.model_copy(update=update)})


def _samples_of(config: RunConfig, first: Manifest, requests: Manifest) -> tuple[dict[str, Any], str]:
    """Settings and input of samples/."""
    settings = {
        **_section(config).model_dump(include={"num_samples", "top_k"}),
        "max_new_tokens": config.scoring.max_new_tokens,
        "seed": config.student.training.seed_or(config.seed),
        "assessing": assess_settings(_scoring(config)),
    }
    return settings, fingerprint(first.fingerprint, requests.fingerprint)


def _is_factual_train(table: pa.Table) -> Any:
    is_factual, is_train = pc.equal(table["kind"], "factual"), pc.equal(table["split"], "train")  # type: ignore[attr-defined]
    return pc.and_(is_factual, is_train)  # type: ignore[attr-defined]


def _load(config: RunConfig, student: str) -> Process:
    from cotray.inference.top_k_sampler import Sampler, sampled_rationales

    conseq, training = _section(config), config.student.training
    sampler = Sampler(
        student,
        top_k=conseq.top_k,
        max_new_tokens=config.scoring.max_new_tokens,
        tags=training.tags,
        seed=training.seed_or(config.seed),
    )
    assessor = load_assessor(_scoring(config))

    def process(requests: Sequence[TeacherRequest], *, on_finished: Any) -> list[Any]:
        drafts = sampled_rationales(requests, num_samples=conseq.num_samples, method=config.method)
        written = in_sorted_batches(
            sampler.write, config.scoring.batch_size, "question", drafts, on_finished=lambda _: None
        )
        return in_sorted_batches(
            assessor.assess, config.assessing.batch_size, "rationale", written, on_finished=on_finished
        )

    return process


def _failed(config: RunConfig, request: TeacherRequest, error: str, attempts: int) -> list[Assessment]:
    row = request.to_row() | {"method": config.method, "error": error, "attempts": attempts}
    return [Assessment.from_row(row | {"sample": n}) for n in range(_section(config).num_samples)]


def _dead_letter(row: Assessment) -> DeadLetter:
    return DeadLetter("samples", row.id, row.error, json.dumps(row.to_row()), row.attempts)


def _learned(rows: Sequence[Assessment], weights: Sequence[float]) -> list[Assessment]:
    """Of the train split, what the rules leave in."""
    return [row for row, weight in zip(rows, weights, strict=True) if row.split == "train" and weight > 0]


def _paired(config: RunConfig, folder: RunFolder, learned: Sequence[Assessment]) -> Pairs:
    from cotray.training.conseq import pair_up

    conseq = _section(config)
    rationales = [row for row in learned if row.kind == "factual"]
    samples = [row for row in folder.read_records("samples", Assessment) if not row.error]
    return pair_up(rationales, samples, score=conseq.score, share=conseq.share)


def _nothing(config: RunConfig, folder: RunFolder, pairs: Pairs) -> str:
    conseq = _section(config)
    long = f" ({len(pairs.selected)} are, but longer than training.max_length)" if pairs.selected else ""
    return (
        f"{folder.uri('student')}: ConSeq has nothing to learn from. {pairs.num_scored} of "
        f"{pairs.num_questions} training questions have {conseq.score} of both the teacher's rationale and a "
        f"sample, and none is among the highest {conseq.share:g} of the one and the lowest {conseq.share:g} "
        f"of the other{long}. Raise student.conseq.share or num_samples, take more "
        "questions, or rank by a score that needs no facts where questions have none"
    )
