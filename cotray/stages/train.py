"""train: rationales/ -> student/, in Hugging Face format.

With `student.conseq` in three steps: rationales/ -> mle_student/ -> samples/ -> student/ (see conseq.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cotray.config import RunConfig
from cotray.errors import DataError
from cotray.models.locations import weights_identity
from cotray.pools.metrics_channel import OnMetrics
from cotray.pools.progress import training_progress
from cotray.pools.train_workers import PLACEMENT, FitReport, fit
from cotray.prompts.few_shot import FewShotPrompt
from cotray.prompts.student import student_prompt_version
from cotray.quality.selection import describe_selection, select
from cotray.records import Assessment, Rationale, TrainExample
from cotray.stages.assess import current_assessments
from cotray.stages.conseq import check_scores, draw_samples, second_input, second_phase
from cotray.stages.generate import current_rationales
from cotray.storage.lease import NO_FENCE, Fence, lease
from cotray.storage.manifest import Manifest
from cotray.storage.run_folder import RunFolder
from cotray.training.examples import (
    Renderer,
    WeightOf,
    too_long_letters,
    weight_lookup,
    with_shuffled_rationales,
)


def train(config: RunConfig, *, overwrite: bool = False, label: str = "train") -> Manifest:
    """Run the stage, or what of its steps is not done; returns the manifest of student/."""
    with lease(config.run_dir, "train") as fence:
        return _train(config, fence, overwrite=overwrite, label=label)


def current_student(config: RunConfig, folder: RunFolder) -> Manifest:
    """The manifest of student/, made under this configuration from the rationales that are there now.

    Raises DataError or StageError, naming the verb to run, where there is none.
    """
    if config.method == "few-shot":
        source = current_rationales(config, folder).fingerprint
    elif config.student.conseq is None:
        source = _source(config, folder).fingerprint
    else:
        first = Manifest("mle_student", _settings(config), _source(config, folder).fingerprint, 0, 0, 0)
        source = second_input(config, folder, first)
    return folder.require("student", "train", settings=settings_of(config), input=source)


def settings_of(config: RunConfig) -> dict[str, Any]:
    """What the student's weights depend on."""
    if config.method == "few-shot":
        return _few_shot_settings(config)
    conseq = config.student.conseq
    return _settings(config) | ({"conseq": conseq.model_dump()} if conseq else {})


def _source(config: RunConfig, folder: RunFolder) -> Manifest:
    """Of what the student learns from."""
    is_ruled = bool(config.assessing.rules)
    return current_assessments(config, folder) if is_ruled else current_rationales(config, folder)


def _train(config: RunConfig, fence: Fence, *, overwrite: bool, label: str) -> Manifest:
    folder = RunFolder(config.run_dir)
    if config.method == "few-shot":
        return _take_teacher(config, folder, overwrite=overwrite)
    source, settings = _source(config, folder), _settings(config)
    if config.student.conseq is None:
        return _learn(config, folder, fence, "student", settings, source, overwrite=overwrite, label=label)
    # The last step is asked first, so that a configuration is refused before hours of training.
    settings_2 = settings_of(config)
    first = Manifest("mle_student", settings, source.fingerprint, 0, 0, 0)
    input_2 = second_input(config, folder, first)
    if overwrite or folder.manifest("student") is None:  # else there is nothing to train, or it is refused
        check_scores(config, folder)
    if folder.begin("student", settings=settings_2, input=input_2, overwrite=overwrite) == "done":
        return folder.require("student", "train")
    first = _learn(
        config,
        folder,
        fence,
        first.stage,
        settings,
        source,
        overwrite=overwrite,
        label=f"{label}: first phase",
    )
    draw_samples(config, folder, fence, first, overwrite=overwrite, label=f"{label}: samples")
    return second_phase(config, folder, fence, settings_2, input_2, label=f"{label}: ConSeq")


def _settings(config: RunConfig) -> dict[str, Any]:
    """What the first phase's weights depend on."""
    settings = config.student.model_dump(exclude={"training": PLACEMENT, "conseq": True}) | {
        "seed": config.student.training.seed_or(config.seed),
        "alpha": config.counterfactual_weight,
        "prompts": student_prompt_version(config.student.training.tags),
    }
    if identity := weights_identity(config.student.model):
        settings["weights"] = identity
    if config.assessing.rules:
        settings["rules"] = [rule.model_dump() for rule in config.assessing.rules]
    return settings


def _learn(
    config: RunConfig,
    folder: RunFolder,
    fence: Fence,
    stage: str,
    settings: dict[str, Any],
    source: Manifest,
    *,
    overwrite: bool,
    label: str,
) -> Manifest:
    """Train on the rationales of `source`, and leave the student in the folder `stage`."""
    state = folder.begin(stage, settings=settings, input=source.fingerprint, overwrite=overwrite)
    if state == "done":
        return folder.require(stage, "train")
    rules = config.assessing.rules
    rows = list(folder.read_records(source.stage, Assessment))
    selection = select(rows, rules) if rules else None
    weights = selection.weights if selection else None
    report = training_progress(
        lambda on_metrics: train_student(
            rows, config, folder.uri(stage), weights=weights, fence=fence, on_metrics=on_metrics
        ),
        label,
    )
    fence.check()
    folder.write_dead_letters(stage, too_long_letters(stage, report.too_long))
    folder.append_metrics({f"train/{key}": value for key, value in row.items()} for row in report.fit.history)
    counts = {
        "factual": report.num_factual,
        "counterfactual": report.num_counterfactual,
        "dev": report.num_dev,
    }
    return folder.finish(
        Manifest(
            stage=stage,
            settings=settings,
            input=source.fingerprint,
            num_in=len(rows),
            num_out=sum(counts.values()),
            num_dead=len(report.too_long),
            metrics=counts
            | {"skipped": report.num_skipped}
            | report.fit.metrics
            | ({"selection": describe_selection(rows, rules, selection)} if selection else {}),
        ),
        report.fit.files,
        report.fit.work,
    )


def _take_teacher(config: RunConfig, folder: RunFolder, *, overwrite: bool) -> Manifest:
    """The student is the teacher, prompted: nothing is trained, and the manifest says so."""
    rationales = current_rationales(config, folder)
    settings, source = _few_shot_settings(config), rationales.fingerprint
    if folder.begin("student", settings=settings, input=source, overwrite=overwrite) == "done":
        return folder.require("student", "train")
    metrics = {"factual": 0, "counterfactual": 0, "dev": 0, "history": []}
    return folder.finish(Manifest("student", settings, source, rationales.num_out, 0, 0, metrics))


def _few_shot_settings(config: RunConfig) -> dict[str, Any]:
    prompt = FewShotPrompt(config.teacher.num_demonstrations)
    return config.teacher.model_dump(include={"model", "revision"}) | {"prompts": prompt.version}


@dataclass(frozen=True)
class StudentReport:
    """What became of the rationales: learned from, skipped (`error` was set), or too long."""

    fit: FitReport
    num_factual: int
    num_counterfactual: int
    num_dev: int
    num_skipped: int
    too_long: tuple[TrainExample, ...]


def train_student(
    rationales: Sequence[Rationale],
    config: RunConfig,
    output_dir: str,
    *,
    weights: Sequence[float] | None = None,
    fence: Fence = NO_FENCE,
    on_metrics: OnMetrics,
) -> StudentReport:
    """Train the student on the train split; dev loss is that of the factual dev rows.

    `weights`: what each rationale's loss is multiplied by, those with 0 left out; None = all 1.
    """
    from cotray.training.batches import StudentBatches

    training, alpha = config.student.training, config.counterfactual_weight
    seed = training.seed_or(config.seed)
    usable = [row for row in rationales if not row.error]
    if training.rationales == "shuffled":
        usable = with_shuffled_rationales(usable, seed=config.seed)
    kinds = {"factual", *(["counterfactual"] if alpha > 0 else [])}
    render, weight_of = Renderer(config), weight_lookup(rationales, weights)
    train = render([row for row in usable if row.split == "train" and row.kind in kinds], weight_of)
    dev = render([row for row in usable if row.split == "dev" and row.kind == "factual"], weight_of)
    num_factual = sum(example.kind == "factual" for example in train)
    if not num_factual:
        raise DataError(f"{output_dir}: {_nothing(rationales, weight_of)}")
    batches = StudentBatches(train, batch_size=training.batch_size, alpha=alpha, seed=seed)
    report = fit(
        batches,
        dev,
        config.student,
        training,
        output_dir,
        alpha=alpha,
        seed=seed,
        fence=fence,
        on_metrics=on_metrics,
    )
    return StudentReport(
        fit=report,
        num_factual=num_factual,
        num_counterfactual=len(train) - num_factual,
        num_dev=len(dev),
        num_skipped=len(rationales) - len(usable),
        too_long=tuple(render.too_long),
    )


def _nothing(rationales: Sequence[Rationale], weight_of: WeightOf) -> str:
    factual = [row for row in rationales if row.split == "train" and row.kind == "factual"]
    usable = [row for row in factual if not row.error]
    num_failed, num_left_out = len(factual) - len(usable), sum(weight_of(row) == 0 for row in usable)
    return (
        f"no factual rationale to train on (of {len(factual)} in the train split {num_failed} failed, "
        f"{num_left_out} left out by assessing.rules, {len(usable) - num_left_out} longer than "
        "student.training.max_length). Loosen the rules, raise max_length, or take more questions"
    )
