"""Examples -> a model in Hugging Face format, on a Ray Train worker group with FSDP2.

Student and simulator are both made here. Checkpoints lie in `{output_dir}/checkpoints` until the
export has succeeded, in a folder named by what is trained on and how: the same command goes on from
the last one, whatever was killed, and a changed configuration starts anew.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cotray.config import ModelConfig, TrainingConfig
from cotray.data.store import filesystem as filesystem_of
from cotray.errors import StageError
from cotray.records import TrainExample
from cotray.seeds import digest
from cotray.stages.relay import OnMetrics, metrics_relay, sigint_restored

if TYPE_CHECKING:
    import pyarrow.fs as fs

    from cotray.training.batches import Batches
    from cotray.training.checkpoint import TrainState

# What does not change the weights beyond rounding, so that two attempts at a run may differ in it; and the
# seed, which is told apart because it may be the run's.
PLACEMENT = {
    "num_workers",
    "num_cpus",
    "num_gpus",
    "label_selector",
    "max_failures",
    "micro_batch_size",
    "seed",
}


@dataclass(frozen=True)
class FitReport:
    """`history` has one flat row of metrics per epoch; `best_dev_loss` is None without dev examples."""

    num_steps: int
    num_epochs: int
    best_dev_loss: float | None
    tokens_per_s: float
    history: tuple[dict[str, float], ...]


def fit(
    batches: Batches,
    dev_examples: Sequence[TrainExample],
    model: ModelConfig,
    training: TrainingConfig,
    output_dir: str,
    *,
    alpha: float,
    seed: int,
    on_metrics: OnMetrics,
) -> FitReport:
    """Train on the running Ray cluster, and leave the best weights and the tokenizer in `output_dir`.

    `on_metrics` is called on the driver, from a thread of its own, for each step and each evaluation;
    steps repeated after a failure come twice. Raises StageError when training failed for good.
    """
    import ray
    from ray.exceptions import RayActorError
    from ray.train import TrainingFailedError

    filesystem, folder = filesystem_of(output_dir)
    task = _Task(batches, tuple(dev_examples), model, training, alpha, seed, output_dir)
    checkpoints = f"{folder}/checkpoints"
    name = _fingerprint(task)
    _discard_torn_snapshot(filesystem, f"{checkpoints}/{name}")
    # The controller polls its workers this often, and a worker's report waits for it.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    task_ref = ray.put(task)
    for attempts_left in range(training.max_failures, -1, -1):
        with metrics_relay(on_metrics) as relay, sigint_restored():
            trainer = _trainer(
                {"task": task_ref, "relay": relay}, training, filesystem, storage_path=checkpoints, name=name
            )
            try:
                report = trainer.fit().return_value
                break
            except RayActorError as error:  # the controller itself was killed
                if not attempts_left:
                    raise StageError(f"{output_dir}: Ray Train's controller died ({error})") from error
            except TrainingFailedError as error:
                raise StageError(
                    f"{output_dir}: training failed after {training.max_failures} restarts: {_cause(error)} "
                    "(the same command goes on from the last checkpoint)"
                ) from error
    filesystem.delete_dir(checkpoints)
    return report


@dataclass(frozen=True)
class _Task:
    """What every worker gets, through the object store."""

    batches: Batches
    dev_examples: tuple[TrainExample, ...]
    model: ModelConfig
    training: TrainingConfig
    alpha: float
    seed: int
    output_dir: str


def _trainer(
    loop_config: dict[str, Any],
    training: TrainingConfig,
    filesystem: fs.FileSystem,
    *,
    storage_path: str,
    name: str,
) -> Any:
    from ray import train
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.config import LoggingConfig

    has_gpus = training.num_gpus > 0
    resources = {"CPU": training.num_cpus, **({"GPU": training.num_gpus} if has_gpus else {})}
    return TorchTrainer(
        _work,
        train_loop_config=loop_config,
        torch_config=TorchConfig(backend="nccl" if has_gpus else "gloo"),
        scaling_config=train.ScalingConfig(
            num_workers=training.num_workers,
            use_gpu=has_gpus,
            resources_per_worker=resources,
            label_selector=training.label_selector or None,
        ),
        run_config=train.RunConfig(
            name=name,
            storage_path=storage_path,
            storage_filesystem=filesystem,
            failure_config=train.FailureConfig(max_failures=training.max_failures),
            checkpoint_config=train.CheckpointConfig(num_to_keep=1),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )


def _work(loop_config: dict[str, Any]) -> FitReport:
    """One worker's whole run; Ray Train hands rank 0's return value to the driver."""
    import ray
    import torch
    from ray import train as ray_train
    from transformers.utils import logging

    from cotray.models import load_model, load_tokenizer
    from cotray.training.checkpoint import export
    from cotray.training.loop import train
    from cotray.training.shard import shard

    logging.disable_progress_bar()
    task: _Task = ray.get(loop_config["task"])
    relay = loop_config["relay"]
    is_first = ray_train.get_context().get_world_rank() == 0
    torch.set_num_threads(max(1, int(task.training.num_cpus)))
    name, revision = task.model.model, task.model.revision
    tokenizer = load_tokenizer(name, revision=revision)
    model = load_model(name, revision=revision, dtype=torch.float32, num_layers=task.model.num_layers)
    shard(model, task.training.precision)

    def report(metrics: dict[str, float]) -> None:
        # ray.train.report would cost a barrier and a poll of the controller per step.
        if is_first:
            relay.push.remote(metrics)

    with contextlib.ExitStack() as stack:
        checkpoint = ray_train.get_checkpoint()
        state = train(
            model,
            tokenizer,
            task.batches,
            task.dev_examples,
            task.training,
            alpha=task.alpha,
            seed=task.seed,
            report=report,
            save_checkpoint=_save_checkpoint,
            restore_from=stack.enter_context(checkpoint.as_directory()) if checkpoint else None,
        )
    with tempfile.TemporaryDirectory(prefix="cotray-export-") as local:
        export(state, tokenizer, local)
        if is_first:
            _upload(local, task.output_dir)
    if is_first:
        ray.get(relay.push.remote({}))  # everything before it has arrived
    return _summarize(state)


def _save_checkpoint(state: TrainState) -> None:
    """Every rank uploads the shards it wrote; Ray Train makes one checkpoint of them."""
    from ray import train as ray_train

    from cotray.training.checkpoint import save

    with tempfile.TemporaryDirectory(prefix="cotray-checkpoint-") as local:
        save(state, local)
        ray_train.report(state.progress.history[-1], checkpoint=ray_train.Checkpoint.from_directory(local))


def _summarize(state: TrainState) -> FitReport:
    history = state.progress.history
    return FitReport(
        num_steps=state.progress.step,
        num_epochs=len(history),
        best_dev_loss=state.progress.best_dev_loss,
        tokens_per_s=sum(row["num_tokens"] for row in history) / sum(row["train_s"] for row in history),
        history=tuple(history),
    )


def _fingerprint(task: _Task) -> str:
    """Names what determines the weights: model, knobs, seed and the first epoch's examples."""
    examples = (task.batches(step) for step in range(task.batches.num_steps_per_epoch))
    texts = [repr(batch) for batch in examples]
    training = task.training.model_dump_json(exclude=PLACEMENT)
    model = task.model.model_dump_json(include={"model", "revision", "num_layers"})
    return f"{digest(task.seed, model, training, str(task.alpha), *texts, repr(task.dev_examples)):016x}"


def _discard_torn_snapshot(filesystem: fs.FileSystem, folder: str) -> None:
    """Ray Train writes its list of checkpoints in place, and cannot start from half a file."""
    import pyarrow.fs as fs

    path = f"{folder}/checkpoint_manager_snapshot.json"
    if filesystem.get_file_info(path).type != fs.FileType.File:
        return
    with filesystem.open_input_stream(path) as stream:
        text = stream.read()
    try:
        json.loads(text)
    except ValueError:
        filesystem.delete_dir(folder)


def _upload(local: str, output_dir: str) -> None:
    import pyarrow.fs as fs

    filesystem, path = filesystem_of(output_dir)
    filesystem.create_dir(path)
    # Threaded uploads to S3 can deadlock: https://github.com/apache/arrow/issues/32372
    fs.copy_files(local, path, destination_filesystem=filesystem, use_threads=False)


def _cause(error: Exception) -> str:
    """The first worker's exception in one line; Ray Train wraps it, with its traceback as the text."""
    failures = getattr(error, "worker_failures", {})
    first = next(iter(failures.values()), error)
    first = getattr(first, "_base_exc", first)
    return f"{type(first).__name__}: {' '.join(str(first).split())[:300]}"
