"""train: rationales/ -> student/, in Hugging Face format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from cotray.config import ModelConfig, RunConfig
from cotray.data.store import DeadLetter, Manifest, RunFolder
from cotray.errors import DataError
from cotray.prompts.few_shot import FewShotPrompt
from cotray.prompts.student import student_example
from cotray.records import Assessment, Rationale, TrainExample
from cotray.stages.assess import current_assessments
from cotray.stages.fit import PLACEMENT, FitReport, fit
from cotray.stages.progress import training_progress
from cotray.stages.relay import OnMetrics
from cotray.training.selection import describe_selection, select

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def train(config: RunConfig, *, overwrite: bool = False, label: str = "train") -> Manifest:
    """Run the stage, or return its manifest if it is done."""
    folder = RunFolder(config.run_dir)
    if config.method == "few-shot":
        return _take_teacher(config, folder, overwrite=overwrite)
    assessing = config.assessing
    source = (
        current_assessments(config, folder) if assessing.rules else folder.require("rationales", "generate")
    )
    settings = config.student.model_dump(exclude={"training": PLACEMENT}) | {
        "seed": config.student.training.seed_or(config.seed),
        "alpha": config.counterfactual_weight,
    }
    if assessing.rules:
        settings["rules"] = [rule.model_dump() for rule in assessing.rules]
    state = folder.begin("student", settings=settings, input=source.fingerprint, overwrite=overwrite)
    if state == "done":
        return folder.require("student", "train")
    rows = list(folder.read_records(source.stage, Assessment))
    selection = select(rows, assessing.rules) if assessing.rules else None
    weights = selection.weights if selection else None
    report = training_progress(
        lambda on_metrics: train_student(
            rows, config, folder.uri("student"), weights=weights, on_metrics=on_metrics
        ),
        label,
    )
    folder.write_dead_letters(
        "student",
        [
            DeadLetter("student", e.id, f"longer than training.max_length ({e.kind})", e.source + e.target)
            for e in report.too_long
        ],
    )
    folder.append_metrics({f"train/{key}": value for key, value in row.items()} for row in report.fit.history)
    counts = {
        "factual": report.num_factual,
        "counterfactual": report.num_counterfactual,
        "dev": report.num_dev,
    }
    return folder.finish(
        Manifest(
            stage="student",
            settings=settings,
            input=source.fingerprint,
            num_in=len(rows),
            num_out=sum(counts.values()),
            num_dead=len(report.too_long),
            metrics=counts
            | {"skipped": report.num_skipped}
            | asdict(report.fit)
            | ({"selection": describe_selection(rows, assessing.rules, selection)} if selection else {}),
        )
    )


def _take_teacher(config: RunConfig, folder: RunFolder, *, overwrite: bool) -> Manifest:
    """The student is the teacher, prompted: nothing is trained, and the manifest says so."""
    rationales = folder.require("rationales", "generate")
    prompt = FewShotPrompt(config.teacher.num_demonstrations)
    settings = config.teacher.model_dump(include={"model", "revision"}) | {"prompts": prompt.version}
    source = rationales.fingerprint
    if folder.begin("student", settings=settings, input=source, overwrite=overwrite) == "done":
        return folder.require("student", "train")
    metrics = {"factual": 0, "counterfactual": 0, "dev": 0, "history": []}
    return folder.finish(Manifest("student", settings, source, rationales.num_out, 0, 0, metrics))


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
    on_metrics: OnMetrics,
) -> StudentReport:
    """Train the student on the train split; dev loss is that of the factual dev rows.

    `weights`: what each rationale's loss is multiplied by, those with 0 left out; None = all 1.
    """
    from cotray.training.batches import StudentBatches, split_by_length

    student, training, alpha = config.student, config.student.training, config.counterfactual_weight
    seed = training.seed_or(config.seed)
    tokenizer, is_encoder_decoder = load_tokenizer_of(student)
    usable = [row for row in rationales if not row.error]
    weight_of = dict(zip(map(_key, rationales), weights or [1.0] * len(rationales), strict=True))
    wanted = {("train", "factual"), ("dev", "factual"), *([("train", "counterfactual")] if alpha > 0 else [])}
    examples: dict[str, list[TrainExample]] = {"train": [], "dev": []}
    too_long: list[TrainExample] = []
    for split, rows in examples.items():
        rendered = [
            replace(
                student_example(row, tags=training.tags, seed=seed, is_encoder_decoder=is_encoder_decoder),
                weight=weight_of[_key(row)],
            )
            for row in usable
            if row.split == split and (split, row.kind) in wanted and weight_of[_key(row)] > 0
        ]
        kept, dropped = split_by_length(
            rendered, tokenizer, is_encoder_decoder=is_encoder_decoder, max_length=training.max_length
        )
        rows.extend(kept)
        too_long.extend(dropped)
    num_factual = sum(example.kind == "factual" for example in examples["train"])
    if not num_factual:
        raise DataError(
            f"{output_dir}: no factual rationale to train on ({len(rationales)} read, "
            f"{len(rationales) - len(usable)} failed, {len(too_long)} longer than training.max_length)"
        )
    batches = StudentBatches(examples["train"], batch_size=training.batch_size, alpha=alpha, seed=seed)
    report = fit(
        batches,
        examples["dev"],
        student,
        training,
        output_dir,
        alpha=alpha,
        seed=seed,
        on_metrics=on_metrics,
    )
    return StudentReport(
        fit=report,
        num_factual=num_factual,
        num_counterfactual=len(examples["train"]) - num_factual,
        num_dev=len(examples["dev"]),
        num_skipped=len(rationales) - len(usable),
        too_long=tuple(too_long),
    )


def _key(row: Rationale) -> tuple[str, str, int]:
    return row.kind, row.id, row.sample


def load_tokenizer_of(model: ModelConfig) -> tuple[PreTrainedTokenizerBase, bool]:
    """The model's tokenizer, and whether it is an encoder-decoder; loads no weights."""
    from transformers import AutoConfig

    from cotray.models import load_tokenizer, model_path

    tokenizer = load_tokenizer(model.model, revision=model.revision)
    config = AutoConfig.from_pretrained(model_path(model.model), revision=model.revision)
    return tokenizer, bool(config.is_encoder_decoder)
