"""Examples -> a model in Hugging Face format, on a Ray Train worker group with FSDP2.

Student and simulator are both made here. Checkpoints lie in `{output_dir}/checkpoints` until the stage has
its manifest, in a folder named by what is trained on and how: the same command goes on from the last whole
one, whatever was killed, and a changed configuration starts anew. They are ours and not Ray Train's, whose
list of them is written in place, so that a crash can leave half of it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from cotray.config import Dtype, ModelConfig, TrainingConfig
from cotray.errors import StageError
from cotray.pools.metrics_channel import OnMetrics, metrics_channel, sigint_restored
from cotray.records import TrainExample
from cotray.seeds import digest
from cotray.storage.checkpoints import (
    as_folder,
    complete,
    discard,
    newest,
    publish,
    settled_precision,
    upload,
)
from cotray.storage.filesystems import filesystem as filesystem_of
from cotray.storage.lease import NO_FENCE, Fence
from cotray.storage.manifest import FileEntry, Work
from cotray.storage.run_folder import CHECKPOINTS

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
    precision: str = "float32"
    """Type of the computation; weights are float32."""
    files: tuple[FileEntry, ...] = ()
    """What was written to the output folder."""
    work: Work | None = None

    @property
    def metrics(self) -> dict[str, Any]:
        """For the manifest."""
        return {key: value for key, value in asdict(self).items() if key not in ("files", "work")}


def fit(
    batches: Batches,
    dev_examples: Sequence[TrainExample],
    model: ModelConfig,
    training: TrainingConfig,
    output_dir: str,
    *,
    alpha: float,
    seed: int,
    fence: Fence = NO_FENCE,
    on_metrics: OnMetrics,
) -> FitReport:
    """Train on the running Ray cluster, and leave the best weights and the tokenizer in `output_dir`.

    The checkpoints stay, for whoever writes the manifest to delete. `fence` is checked before the export.

    `on_metrics` is called on the driver, from a thread of its own, for each step and each evaluation;
    steps repeated after a failure come twice. Raises StageError when training failed for good.
    """
    import ray
    from ray.exceptions import RayActorError
    from ray.train import TrainingFailedError

    filesystem, folder = filesystem_of(output_dir)
    task = _Task(batches, tuple(dev_examples), model, training, alpha, seed, output_dir, "", fence)
    task = replace(task, checkpoints=f"{output_dir}/{CHECKPOINTS}/{_fingerprint(task)}")
    found, damaged = newest(task.checkpoints)
    if damaged:
        last = found.rpartition("/")[2] if found else "the beginning"
        print(f"{output_dir}: goes on from {last} ({'; '.join(damaged)})", file=sys.stderr, flush=True)
    # The controller polls its workers this often, and a worker's report waits for it.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")
    task_ref = ray.put(task)
    for attempts_left in range(training.max_failures, -1, -1):
        with metrics_channel(on_metrics) as relay, sigint_restored():
            trainer = _trainer(
                {"task": task_ref, "relay": relay},
                training,
                filesystem,
                # Of Ray Train's own state, which nothing goes on from: each attempt has another.
                storage_path=f"{folder}/{CHECKPOINTS}/ray",
                name=uuid.uuid4().hex[:8],
            )
            try:
                return trainer.fit().return_value
            except RayActorError as error:  # the controller itself was killed
                if not attempts_left:
                    raise StageError(f"{output_dir}: Ray Train's controller died ({error})") from error
            except TrainingFailedError as error:
                raise StageError(
                    f"{output_dir}: training failed after {training.max_failures} restarts: {_cause(error)} "
                    "(the same command goes on from the last checkpoint)"
                ) from error
    raise AssertionError("every attempt returns or raises")


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
    checkpoints: str
    fence: Fence


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
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )


def _work(loop_config: dict[str, Any]) -> FitReport:
    """One worker's whole run; Ray Train hands rank 0's return value to the driver."""
    import ray
    import torch
    from ray import train as ray_train
    from ray.train import collective
    from transformers.utils import logging

    from cotray.models.loading import load_model, load_tokenizer
    from cotray.training.checkpoint import export
    from cotray.training.fsdp import shard
    from cotray.training.loop import train

    logging.disable_progress_bar()
    task: _Task = ray.get(loop_config["task"])
    relay = loop_config["relay"]
    is_first = ray_train.get_context().get_world_rank() == 0
    torch.set_num_threads(max(1, int(task.training.num_cpus)))
    name, revision = task.model.model, task.model.revision
    tokenizer = load_tokenizer(name, revision=revision)
    model = load_model(name, revision=revision, dtype=torch.float32, num_layers=task.model.num_layers)
    # Rank 0 decides: nodes of different kinds would not agree.
    precision: Any = collective.broadcast_from_rank_zero(_precision(task) if is_first else None)
    shard(model, precision)

    def report(metrics: dict[str, float]) -> None:
        # ray.train.report would cost a barrier and a poll of the controller per step.
        if is_first:
            relay.push.remote(metrics)

    with contextlib.ExitStack() as stack:
        began = time.time()
        found = collective.broadcast_from_rank_zero(newest(task.checkpoints)[0] if is_first else None)
        state = train(
            model,
            tokenizer,
            task.batches,
            task.dev_examples,
            task.training,
            alpha=task.alpha,
            seed=task.seed,
            report=report,
            save_checkpoint=_checkpoint_writer(task.checkpoints),
            restore_from=stack.enter_context(as_folder(found)) if found else None,
        )
    work = Work(began, time.time())
    files: list[FileEntry] = []
    with tempfile.TemporaryDirectory(prefix="cotray-export-") as local:
        export(state, tokenizer, local)
        if is_first:
            task.fence.check()
            files = upload(local, task.output_dir)
    if is_first:
        ray.get(relay.push.remote({}))  # everything before it has arrived
    return replace(_summarize(state), files=tuple(files), precision=precision, work=work)


def _precision(task: _Task) -> Dtype:
    """Of the computation on all workers, whatever their nodes have: what the run began with."""
    import torch

    from cotray.models.loading import compute_dtype

    at_hand = compute_dtype(task.training.precision, "cuda" if task.training.num_gpus else "cpu")
    return settled_precision(task.checkpoints, "bfloat16" if at_hand == torch.bfloat16 else "float32")


def _checkpoint_writer(folder: str) -> Callable[[TrainState], None]:
    """Every worker uploads the shards it wrote; when all have, the first one makes them count."""
    from ray import train as ray_train
    from ray.train import collective

    from cotray.training.checkpoint import save

    rank, num_workers = ray_train.get_context().get_world_rank(), ray_train.get_context().get_world_size()

    def write(state: TrainState) -> None:
        uri = f"{folder}/step-{state.progress.step:08d}"
        with tempfile.TemporaryDirectory(prefix="cotray-checkpoint-") as local:
            save(state, local)
            if rank == 0:
                discard(uri)
            collective.barrier()
            publish(local, uri, rank)
        collective.barrier()
        if rank == 0:
            complete(uri, num_workers)

    return write


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


def _cause(error: Exception) -> str:
    """The first worker's exception in one line; Ray Train wraps it, with its traceback as the text."""
    failures = getattr(error, "worker_failures", {})
    first = next(iter(failures.values()), error)
    first = getattr(first, "_base_exc", first)
    return f"{type(first).__name__}: {' '.join(str(first).split())[:300]}"
