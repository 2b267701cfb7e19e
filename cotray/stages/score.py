"""score: the student answers, a simulator learns to predict it, and LAS says what the rationale adds.

student/ + rationales/ -> answers/ -> simulator/ -> simulations/ and the figures in their manifest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cotray.config import RunConfig
from cotray.errors import DataError
from cotray.models.locations import weights_identity
from cotray.pools.pool import run_pool
from cotray.pools.progress import training_progress
from cotray.pools.replica import PoolStage, Process
from cotray.pools.sorted_batches import in_sorted_batches
from cotray.pools.train_workers import PLACEMENT, fit
from cotray.prompts.few_shot import FewShotPrompt
from cotray.prompts.simulator import simulator_example, simulator_prompt_version
from cotray.prompts.student import StudentPrompt, trained_prompt
from cotray.records import Rationale, Simulation, StudentAnswer, TrainExample, normalized
from cotray.scoring.las import las
from cotray.scoring.probes import ground_truth
from cotray.scoring.statistics import accuracy_ci95
from cotray.stages.generate import current_rationales
from cotray.stages.train import current_student
from cotray.storage.lease import Fence, lease
from cotray.storage.manifest import FileEntry, Manifest, Work, fingerprint
from cotray.storage.run_folder import RunFolder
from cotray.storage.shards import Shards
from cotray.world.truth import probes

ROWS_PER_CALL = 128
"""Given to a replica at a time, which sorts them by length and cuts them into scoring.batch_size."""


def score(
    config: RunConfig, *, overwrite: bool = False, reuse_from: Sequence[str] = (), label: str = "score"
) -> Manifest:
    """Run the three steps that are not done yet; returns the manifest of simulations/ with the figures.

    `reuse_from` names run folders whose answers are taken over where the same student gave them.
    """
    folder = RunFolder(config.run_dir)
    with lease(config.run_dir, "score") as fence:
        answers = _answer(config, folder, fence, reuse_from, overwrite=overwrite, label=f"{label}: answers")
        simulator = _train_simulator(
            config, folder, fence, answers, overwrite=overwrite, label=f"{label}: simulator"
        )
        return _simulate(
            config, folder, fence, answers, simulator, overwrite=overwrite, label=f"{label}: simulations"
        )


def answer_settings(config: RunConfig) -> dict[str, Any]:
    """What the student's answers depend on, beside the student."""
    settings = config.scoring.model_dump(include={"max_new_tokens", "perturbed_fraction"})
    return settings | {"dtype": config.scoring.resolved_dtype("auto")}


def simulator_settings(config: RunConfig) -> dict[str, Any]:
    """What the simulator's weights depend on, beside the answers it learns from."""
    simulator = config.simulator
    settings = simulator.model_dump(exclude={"training": PLACEMENT})
    settings["seed"] = simulator.training.seed_or(config.seed)
    settings["prompts"] = simulator_prompt_version(simulator.mode)
    if identity := weights_identity(simulator.model):
        settings["weights"] = identity
    return settings


def simulation_settings(config: RunConfig) -> dict[str, Any]:
    """What the figures depend on, beside answers and simulator."""
    return {"num_resamples": config.scoring.num_resamples, "seed": config.seed}


def _answer(
    config: RunConfig,
    folder: RunFolder,
    fence: Fence,
    reuse_from: Sequence[str],
    *,
    overwrite: bool,
    label: str,
) -> Manifest:
    student, rationales = current_student(config, folder), current_rationales(config, folder)
    settings = answer_settings(config)
    source = fingerprint(student.fingerprint, rationales.fingerprint)
    if folder.begin("answers", settings=settings, input=source, overwrite=overwrite) == "done":
        return folder.require("answers", "score")
    version = fingerprint(settings, source)
    shards = Shards(
        folder.root,
        "rationales",
        "answers",
        StudentAnswer,
        version,
        _is_factual,
        fence=fence,
        source_version=rationales.version,
    )
    for other in map(RunFolder, reuse_from):
        there = other.manifest("answers")
        if there is not None and there.fingerprint == fingerprint(settings, source):
            shards.adopt_all(other)
            break
    stage = PoolStage(shards, Rationale, build=partial(_load_student, config, folder.uri("student")))
    total = shards.num_wanted()
    made = run_pool(stage, total=total, config=config.scoring, batch_size=ROWS_PER_CALL, label=label)
    fence.check()
    metrics = {}
    if config.data.is_world:
        rows = (row for row in folder.read_records("answers", StudentAnswer) if row.split == "test")
        metrics["ground_truth"] = ground_truth(
            list(rows), num_resamples=config.scoring.num_resamples, seed=config.seed
        )
    manifest = Manifest("answers", settings, source, total, total, 0, metrics)
    return folder.finish(manifest, made.files, made.work)


def _train_simulator(
    config: RunConfig, folder: RunFolder, fence: Fence, answers: Manifest, *, overwrite: bool, label: str
) -> Manifest:
    simulator, settings = config.simulator, simulator_settings(config)
    seed = simulator.training.seed_or(config.seed)
    state = folder.begin("simulator", settings=settings, input=answers.fingerprint, overwrite=overwrite)
    if state == "done":
        return folder.require("simulator", "score")
    rows = list(folder.read_records("answers", StudentAnswer))
    train, dev = ([row for row in rows if row.split == split] for split in ("train", "dev"))
    metrics: dict[str, Any] = {"mode": simulator.mode}
    files: tuple[FileEntry, ...] = ()
    work: Work | None = None
    if simulator.mode == "trained":
        from cotray.training.batches import SimulatorBatches

        batches = SimulatorBatches(
            train,
            _render,
            batch_size=simulator.training.batch_size,
            explanation_dropout=simulator.explanation_dropout,
            input_dropout=simulator.input_dropout,
            seed=seed,
        )
        dev_examples = [_render(row, False, False) for row in dev]
        report = training_progress(
            lambda on_metrics: fit(
                batches,
                dev_examples,
                simulator,
                simulator.training,
                folder.uri("simulator"),
                alpha=0.0,
                seed=seed,
                fence=fence,
                on_metrics=on_metrics,
            ),
            label,
        )
        metrics, files, work = metrics | report.metrics, report.files, report.work
    fence.check()
    return folder.finish(
        Manifest("simulator", settings, answers.fingerprint, len(rows), len(train), 0, metrics), files, work
    )


def _simulate(
    config: RunConfig,
    folder: RunFolder,
    fence: Fence,
    answers: Manifest,
    simulator: Manifest,
    *,
    overwrite: bool,
    label: str,
) -> Manifest:
    settings = simulation_settings(config)
    source = fingerprint(answers.fingerprint, simulator.fingerprint)
    if folder.begin("simulations", settings=settings, input=source, overwrite=overwrite) == "done":
        return folder.require("simulations", "score")
    version = fingerprint(settings, source)
    shards = Shards(
        folder.root,
        "answers",
        "simulations",
        Simulation,
        version,
        _is_test,
        fence=fence,
        source_version=answers.version,
    )
    stage = PoolStage(shards, StudentAnswer, build=partial(_load_simulator, config, folder.uri("simulator")))
    total = shards.num_wanted()
    if not total:
        raise DataError(f"{folder.uri('answers')}: no test question to score; raise data.test_fraction")
    made = run_pool(stage, total=total, config=config.scoring, batch_size=ROWS_PER_CALL, label=label)
    fence.check()
    rows = list(folder.read_records("simulations", Simulation))
    metrics = figures(rows, num_resamples=config.scoring.num_resamples, seed=config.seed)
    manifest = Manifest("simulations", settings, source, total, total, 0, metrics)
    return folder.finish(manifest, made.files, made.work)


def figures(rows: Sequence[Simulation], *, num_resamples: int, seed: int) -> dict[str, Any]:
    """Accuracies with intervals, the interventions, and LAS over the test questions."""
    report = las(
        [r.student_answer for r in rows],
        [r.sim_x for r in rows],
        [r.sim_e for r in rows],
        [r.sim_xe for r in rows],
        num_resamples=num_resamples,
        seed=seed,
    )

    def accuracy(is_right: Callable[[Simulation], bool], over: Sequence[Simulation]) -> dict[str, Any]:
        right = [is_right(row) for row in over]
        interval = accuracy_ci95(right, num_resamples=num_resamples, seed=seed)
        return {"value": sum(right) / len(right) if right else None, "ci95": interval, "n": len(right)}

    explained = [row for row in rows if row.oracle_answer]
    return {
        "accuracy": accuracy(lambda r: normalized(r.student_answer) == normalized(r.answer), rows),
        "explained_accuracy": accuracy(
            lambda r: normalized(r.student_answer) == normalized(r.answer), explained
        ),
        "oracle_accuracy": accuracy(lambda r: normalized(r.oracle_answer) == normalized(r.answer), explained),
        "perturbed_accuracy": accuracy(
            lambda r: normalized(r.perturbed_answer) == normalized(r.answer), rows
        ),
        "wrote_answer": accuracy(lambda r: r.wrote_answer, rows),
        "las": asdict(report),
    }


def _load_student(config: RunConfig, model: str) -> Process:
    from cotray.scoring.student import Student

    prompt: StudentPrompt = trained_prompt(config.student.training.tags)
    revision = "main"
    if config.method == "few-shot":
        prompt = FewShotPrompt(config.teacher.num_demonstrations)
        model, revision = config.teacher.model, config.teacher.revision
    student = Student(
        model,
        revision=revision,
        config=config.scoring,
        prompt=prompt,
        seed=config.seed,
        method=config.method,
        dtype=config.scoring.resolved_dtype("auto"),
        prober=partial(probes, config.data.world) if config.data.is_world else None,
    )
    return partial(in_sorted_batches, student.answer, config.scoring.batch_size, "question")


def _load_simulator(config: RunConfig, trained: str) -> Process:
    from cotray.scoring.simulator import Simulator

    mode = config.simulator.mode
    is_trained = mode == "trained"
    model, revision = (trained, "main") if is_trained else (config.simulator.model, config.simulator.revision)
    simulator = Simulator(model, mode=mode, revision=revision, dtype=config.scoring.resolved_dtype("auto"))
    return partial(in_sorted_batches, simulator.simulate, config.scoring.batch_size, "question")


def _render(answer: StudentAnswer, drop_x: bool, drop_e: bool) -> TrainExample:
    return simulator_example(answer, drop_x=drop_x, drop_e=drop_e)


def _is_factual(table: pa.Table) -> Any:
    """One rationale per question: the first draw where the teacher sampled several."""
    is_factual, is_first = pc.equal(table["kind"], "factual"), pc.equal(table["sample"], 0)  # type: ignore[attr-defined]
    return pc.and_(is_factual, is_first)  # type: ignore[attr-defined]


def _is_test(table: pa.Table) -> Any:
    return pc.equal(table["split"], "test")  # type: ignore[attr-defined]
