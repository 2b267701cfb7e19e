"""The simulator as a step of `score`: answers/ -> simulator_examples/ -> simulator/."""

from __future__ import annotations

from functools import partial
from typing import Any

from cotray.config import RunConfig
from cotray.errors import DataError
from cotray.models.locations import weights_identity
from cotray.pools.placement import until_placed
from cotray.pools.train_workers import fit
from cotray.pools.training_progress import training_progress
from cotray.prompts.simulator import simulator_prompt_version
from cotray.records import StudentAnswer
from cotray.stages.examples import Source, make_examples
from cotray.storage.lease import Fence
from cotray.storage.manifest import FileEntry, Manifest, Work
from cotray.storage.run_folder import RunFolder
from cotray.training.node_examples import StageExamples
from cotray.training.renderers import SimulatorRenderer


def simulator_settings(config: RunConfig) -> dict[str, Any]:
    """What the simulator's weights depend on, beside the answers it learns from."""
    simulator = config.simulator
    settings = simulator.model_dump(exclude={"training"}) | {"training": simulator.training.settings()}
    settings["seed"] = simulator.training.seed_or(config.seed)
    settings["prompts"] = simulator_prompt_version(simulator.mode)
    if identity := weights_identity(simulator.model):
        settings["weights"] = identity
    return settings


def train_simulator(
    config: RunConfig, folder: RunFolder, fence: Fence, answers: Manifest, *, overwrite: bool, label: str
) -> Manifest:
    simulator, settings = config.simulator, simulator_settings(config)
    seed = simulator.training.seed_or(config.seed)
    state = folder.begin("simulator", settings=settings, input=answers.fingerprint, overwrite=overwrite)
    if state == "done":
        return folder.require("simulator", "score")
    metrics: dict[str, Any] = {"mode": simulator.mode}
    files: tuple[FileEntry, ...] = ()
    work: Work | None = None
    num_train = 0
    if simulator.mode == "trained":
        from cotray.training.batches import SimulatorBatches

        examples = _make_examples(config, folder, answers, fence, label=f"{label}: examples")
        num_train = examples.metrics.get("train-factual", 0)
        if not num_train:
            raise DataError(
                f"{folder.uri('simulator')}: no answer to train a simulator on ({examples.num_dead} longer "
                "than simulator.training.max_length). Raise it, or take more questions"
            )
        report = training_progress(
            lambda on_metrics: fit(
                StageExamples(folder.root, examples.stage, examples.fingerprint),
                partial(
                    SimulatorBatches,
                    batch_size=simulator.training.batch_size,
                    batch_tokens=simulator.training.batch_tokens,
                    explanation_dropout=simulator.explanation_dropout,
                    input_dropout=simulator.input_dropout,
                    seed=seed,
                ),
                simulator,
                simulator.training,
                folder.uri("simulator"),
                alpha=0.0,
                seed=seed,
                fence=fence,
                on_metrics=on_metrics,
            ),
            label,
            folder,
            "simulator",
            simulator.training,
            settings,
            until_ready=until_placed("simulator.training", simulator.training),
        )
        metrics, files, work = metrics | report.metrics, report.files, report.work
    fence.check()
    return folder.finish(
        Manifest("simulator", settings, answers.fingerprint, answers.num_out, num_train, 0, metrics),
        files,
        work,
    )


def _make_examples(
    config: RunConfig, folder: RunFolder, answers: Manifest, fence: Fence, *, label: str
) -> Manifest:
    """simulator_examples/: the student's answers, to be predicted from question, rationale and both."""
    simulator = config.simulator
    return make_examples(
        folder,
        "simulator_examples",
        [Source("answers", StudentAnswer, SimulatorRenderer(), answers.version)],
        simulator,
        max_length=simulator.training.max_length,
        settings={
            "model": simulator.model,
            "revision": simulator.revision,
            "weights": weights_identity(simulator.model),
            "max_length": simulator.training.max_length,
            "prompts": simulator_prompt_version(simulator.mode),
        },
        input=answers.fingerprint,
        fence=fence,
        label=label,
    )
