"""score: the student answers, a simulator learns to predict it, and LAS says what the rationale adds.

student/ + rationales/ -> answers/ -> simulator/ -> simulations/ and the figures in their manifest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from cotray.config import RunConfig
from cotray.data.demonstrations import own_demonstrations
from cotray.errors import DataError
from cotray.pools.pool import run_pool
from cotray.pools.replica import PoolStage, Process
from cotray.pools.sorted_batches import in_sorted_batches
from cotray.prompts.few_shot import FewShotPrompt
from cotray.prompts.student import StudentPrompt, trained_prompt
from cotray.prompts.teacher import Demonstrations
from cotray.records import Rationale, Simulation, StudentAnswer, normalized
from cotray.scoring.constant_answers import commonest_answers
from cotray.scoring.las import las
from cotray.scoring.probes import Prober, ground_truth
from cotray.scoring.statistics import accuracy_ci95
from cotray.scoring.writing import writing
from cotray.stages.endpoint import (
    answer_over_api,
    endpoint_metrics,
    num_batches_at_once,
    read_key,
    write_unanswered,
)
from cotray.stages.generate import current_rationales
from cotray.stages.simulator import train_simulator
from cotray.stages.train import current_student
from cotray.storage.lease import Fence, lease
from cotray.storage.manifest import Manifest, fingerprint
from cotray.storage.run_folder import RunFolder
from cotray.storage.shards import Shards
from cotray.tracking.tracking import check_tracking
from cotray.world.truth import probes

if TYPE_CHECKING:
    from cotray.scoring.student import Student

ROWS_PER_CALL = 128
"""Given to a replica at a time, which sorts them by length and cuts them into scoring.batch_size."""


def score(
    config: RunConfig,
    *,
    overwrite: bool = False,
    reuse_from: Sequence[str] = (),
    account: str | None = None,
    label: str = "score",
) -> Manifest:
    """Run the three steps that are not done yet; returns the manifest of simulations/ with the figures.

    `reuse_from` names run folders whose answers are taken over where the same student gave them. `account`:
    as of `open_endpoint`, for the few-shot method.
    """
    check_tracking(config.simulator.training)
    folder = RunFolder(config.run_dir)
    with lease(config.run_dir, "score") as fence:
        answers = _answer(
            config, folder, fence, reuse_from, account, overwrite=overwrite, label=f"{label}: answers"
        )
        simulator = train_simulator(
            config, folder, fence, answers, overwrite=overwrite, label=f"{label}: simulator"
        )
        return _simulate(
            config, folder, fence, answers, simulator, overwrite=overwrite, label=f"{label}: simulations"
        )


def answer_settings(config: RunConfig) -> dict[str, Any]:
    """What the student's answers depend on, beside the student."""
    settings = config.scoring.model_dump(include={"max_new_tokens", "perturbed_fraction"})
    return settings | {"dtype": config.scoring.resolved_dtype("auto")}


def simulation_settings(config: RunConfig) -> dict[str, Any]:
    """What the figures depend on, beside answers and simulator."""
    return {"num_resamples": config.scoring.num_resamples, "seed": config.seed}


def _answer(
    config: RunConfig,
    folder: RunFolder,
    fence: Fence,
    reuse_from: Sequence[str],
    account: str | None,
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
    total, own = shards.num_wanted(), own_demonstrations(config)
    metrics: dict[str, Any] = {}
    if config.asks_endpoint_for_answers:
        build = partial(answer_over_api, config, own, read_key(config), account)
        num_at_once = num_batches_at_once(config, ROWS_PER_CALL)
        stage = PoolStage(shards, Rationale, build=build, num_batches_at_once=num_at_once)
        made = run_pool(stage, total=total, config=config.teacher, batch_size=ROWS_PER_CALL, label=label)
        metrics = endpoint_metrics(config, folder, "answers")
        write_unanswered(folder, "answers", StudentAnswer)
    else:
        build = partial(_load_student, config, own, folder.uri("student"))
        stage = PoolStage(shards, Rationale, build=build)
        made = run_pool(stage, total=total, config=config.scoring, batch_size=ROWS_PER_CALL, label=label)
    fence.check()
    if config.data.is_world:
        rows = (row for row in folder.read_records("answers", StudentAnswer) if row.split == "test")
        metrics["ground_truth"] = ground_truth(
            list(rows), num_resamples=config.scoring.num_resamples, seed=config.seed
        )
    metrics["writing"] = writing(folder.read_records("answers", StudentAnswer))
    manifest = Manifest("answers", settings, source, total, total, 0, metrics)
    return folder.finish(manifest, made.files, made.work)


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
        "commonest_answers": commonest_answers(rows),
        "las": asdict(report),
    }


def load_student(
    config: RunConfig, own: Demonstrations, model: str, *, dtype: str, prober: Prober | None = None
) -> Student:
    """The trained student or, of the few-shot method, the teacher with its demonstrations."""
    from cotray.scoring.student import Student

    prompt: StudentPrompt = trained_prompt(config.student.training.tags)
    revision = "main"
    if config.method == "few-shot":
        prompt = FewShotPrompt(config.teacher.num_demonstrations, own)
        model, revision = config.teacher.model, config.teacher.revision
    return Student(
        model,
        revision=revision,
        config=config.scoring,
        prompt=prompt,
        seed=config.seed,
        method=config.method,
        dtype=dtype,
        prober=prober,
    )


def _load_student(config: RunConfig, own: Demonstrations, model: str) -> Process:
    prober = partial(probes, config.data.world) if config.data.is_world else None
    dtype = config.scoring.resolved_dtype("auto")
    student = load_student(config, own, model, dtype=dtype, prober=prober)
    return partial(in_sorted_batches, student.answer, config.scoring.batch_size, "question")


def _load_simulator(config: RunConfig, trained: str) -> Process:
    from cotray.scoring.simulator import Simulator

    mode = config.simulator.mode
    is_trained = mode == "trained"
    model, revision = (trained, "main") if is_trained else (config.simulator.model, config.simulator.revision)
    simulator = Simulator(model, mode=mode, revision=revision, dtype=config.scoring.resolved_dtype("auto"))
    return partial(in_sorted_batches, simulator.simulate, config.scoring.batch_size, "question")


def _is_factual(table: pa.Table) -> Any:
    """One rationale per question: the first draw where the teacher sampled several."""
    is_factual, is_first = pc.equal(table["kind"], "factual"), pc.equal(table["sample"], 0)  # type: ignore[attr-defined]
    return pc.and_(is_factual, is_first)  # type: ignore[attr-defined]


def _is_test(table: pa.Table) -> Any:
    return pc.equal(table["split"], "test")  # type: ignore[attr-defined]
