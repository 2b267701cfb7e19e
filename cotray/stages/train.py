"""train: rationales/ -> student/, in Hugging Face format.

With `student.conseq` in three steps: rationales/ -> mle_student/ -> samples/ -> student/ (see conseq.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from cotray.config import RunConfig
from cotray.data.demonstrations import own_demonstrations
from cotray.errors import DataError
from cotray.models.locations import weights_identity
from cotray.pools.placement import until_placed
from cotray.pools.train_workers import fit
from cotray.pools.training_progress import training_progress
from cotray.prompts.few_shot import FewShotPrompt
from cotray.prompts.student import inference_tag, student_prompt_version
from cotray.prompts.teacher_chat import endpoint_prompt_version, fields_of
from cotray.quality.selection import describe_selection, select
from cotray.records import Assessment, Rationale
from cotray.stages.assess import current_assessments
from cotray.stages.conseq import check_scores, draw_samples, second_input, second_phase
from cotray.stages.examples import Source, columns_of, example_settings, kinds_of, make_examples
from cotray.stages.generate import current_rationales
from cotray.storage.lease import Fence, lease
from cotray.storage.manifest import Manifest
from cotray.storage.run_folder import RunFolder
from cotray.tracking.tracking import check_tracking
from cotray.training.node_examples import StageExamples
from cotray.training.renderers import Key, StudentRenderer, key_of, shuffled_rationales, weights_of


def train(config: RunConfig, *, overwrite: bool = False, label: str = "train") -> Manifest:
    """Run the stage, or what of its steps is not done; returns the manifest of student/."""
    check_tracking(config.student.training)
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
    settings = config.student.model_dump(exclude={"training", "conseq", "adapter"}) | {
        "training": config.student.training.settings(),
        "seed": config.student.training.seed_or(config.seed),
        "alpha": config.counterfactual_weight,
        "prompts": student_prompt_version(config.student.training.tags),
    }
    if config.student.adapter:
        settings["adapter"] = config.student.adapter.model_dump()
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
    from cotray.training.batches import StudentBatches

    state = folder.begin(stage, settings=settings, input=source.fingerprint, overwrite=overwrite)
    if state == "done":
        return folder.require(stage, "train")
    training, alpha = config.student.training, config.counterfactual_weight
    seed, rules = training.seed_or(config.seed), config.assessing.rules
    rows = list(folder.read_records(source.stage, Assessment, columns_of(config))) if rules else []
    selection = select(rows, rules) if rules else None
    weights = weights_of(rows, selection.weights) if selection else {}
    examples = _make_examples(config, folder, source, weights, fence, label=f"{label}: examples")
    if not examples.metrics.get("train-factual"):
        raise DataError(f"{folder.uri(stage)}: {_nothing(folder, source, weights)}")
    report = training_progress(
        lambda on_metrics: fit(
            StageExamples(folder.root, examples.stage, examples.fingerprint),
            partial(
                StudentBatches,
                batch_size=training.batch_size,
                batch_tokens=training.batch_tokens,
                alpha=alpha,
                seed=seed,
            ),
            config.student,
            training,
            folder.uri(stage),
            alpha=alpha,
            seed=seed,
            tag=inference_tag(training.tags),
            fence=fence,
            on_metrics=on_metrics,
        ),
        label,
        folder,
        stage,
        training,
        settings,
        until_ready=until_placed("student.training", training),
    )
    fence.check()
    folder.append_metrics({f"train/{key}": value for key, value in row.items()} for row in report.history)
    counts = {
        "factual": examples.metrics["train-factual"],
        "counterfactual": examples.metrics.get("train-counterfactual", 0),
        "dev": examples.metrics.get("dev-factual", 0),
    }
    return folder.finish(
        Manifest(
            stage=stage,
            settings=settings,
            input=source.fingerprint,
            num_in=examples.num_in,
            num_out=examples.num_out,
            num_dead=examples.num_dead,
            metrics=counts
            | {"skipped": examples.metrics.get("skipped", 0)}
            | report.metrics
            | ({"selection": describe_selection(rows, rules, selection)} if selection else {}),
        ),
        report.files,
        report.work,
    )


def _make_examples(
    config: RunConfig,
    folder: RunFolder,
    source: Manifest,
    weights: Mapping[Key, float],
    fence: Fence,
    *,
    label: str,
) -> Manifest:
    """examples/: what the student learns from the rationales."""
    training = config.student.training
    seed, rationales = training.seed_or(config.seed), None
    if training.rationales == "shuffled":
        rows = folder.read_records(source.stage, Rationale, StudentRenderer.columns)
        rationales = shuffled_rationales([row for row in rows if not row.error], seed=config.seed)
    return make_examples(
        folder,
        "examples",
        [
            Source(
                source.stage,
                Rationale,
                StudentRenderer(training.tags, seed, kinds_of(config), weights, rationales),
                source.version,
            )
        ],
        config.student,
        max_length=training.max_length,
        settings=example_settings(config) | {"rationales": training.rationales},
        input=source.fingerprint,
        fence=fence,
        label=label,
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
    own = own_demonstrations(config)
    settings = config.teacher.model_dump(include={"model", "revision"})
    if config.teacher.engine != "openai":
        return settings | {"prompts": FewShotPrompt(config.teacher.num_demonstrations, own).version}
    return settings | {
        "engine": "openai",
        "prompts": endpoint_prompt_version(config.teacher, own),
        "fields": fields_of(config.teacher, is_begun=False),
        # Of whose tokens rationales are damaged.
        "tokenizer": config.student.model,
    }


def _nothing(folder: RunFolder, source: Manifest, weights: Mapping[Key, float]) -> str:
    rows = folder.read_records(source.stage, Rationale, StudentRenderer.columns)
    factual = [row for row in rows if row.split == "train" and row.kind == "factual"]
    usable = [row for row in factual if not row.error]
    num_failed = len(factual) - len(usable)
    num_left_out = sum(weights.get(key_of(row), 1.0) == 0 for row in usable)
    return (
        f"no factual rationale to train on (of {len(factual)} in the train split {num_failed} failed, "
        f"{num_left_out} left out by assessing.rules, {len(usable) - num_left_out} longer than "
        "student.training.max_length). Loosen the rules, raise max_length, or take more questions"
    )
