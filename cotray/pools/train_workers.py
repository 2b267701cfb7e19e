"""Examples -> a model in Hugging Face format, on a Ray Train worker group with FSDP2.

Student and simulator are both made here. Checkpoints lie in `{output_dir}/checkpoints` until the stage has
its manifest, in a folder named by what is trained on and how: the same command goes on from the last whole
one, whatever was killed, and a changed configuration starts anew. They are ours and not Ray Train's, whose
list of them is written in place, so that a crash can leave half of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from cotray.config import Dtype, ModelConfig, TrainingConfig
from cotray.config.adapter import AdapterConfig
from cotray.config.training import StudentConfig
from cotray.errors import StageError
from cotray.pools.checkpoint_writer import CheckpointWriter
from cotray.pools.metrics_channel import OnMetrics, metrics_channel, sigint_restored
from cotray.pools.worker_group import notice, worker_group
from cotray.seeds import digest
from cotray.storage.checkpoints import (
    Precision,
    as_folder,
    newest,
    settled_precision,
    upload,
)
from cotray.storage.filesystems import filesystem as filesystem_of
from cotray.storage.filesystems import with_retries
from cotray.storage.lease import NO_FENCE, Fence
from cotray.storage.manifest import FileEntry, Work
from cotray.storage.run_folder import CHECKPOINTS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from cotray.training.batches import Batches
    from cotray.training.checkpoint import TrainState
    from cotray.training.node_examples import StageExamples


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
    examples: StageExamples,
    batches: Callable[..., Batches],
    model: ModelConfig,
    training: TrainingConfig,
    output_dir: str,
    *,
    alpha: float,
    seed: int,
    has_dev: bool = True,
    tag: str | None = None,
    fence: Fence = NO_FENCE,
    on_metrics: OnMetrics,
) -> FitReport:
    """Train on the running Ray cluster, and leave the best weights and the tokenizer in `output_dir`.

    `batches` is a class of training.batches with its arguments by name, which every worker calls on the
    examples that it maps into memory. With `has_dev` the factual examples of the dev split say when to stop.

    The checkpoints stay, for whoever writes the manifest to delete. `fence` is checked before the export.
    `tag`: what stands before the questions of a student, so that chat clients ask it likewise; None where the
    model is not one that is asked.

    `on_metrics` is called on the driver, from a thread of its own, for each step and each evaluation;
    steps repeated after a failure come twice. Raises StageError when training failed for good.
    """
    import ray
    from ray.exceptions import RayActorError
    from ray.train import TrainingFailedError

    filesystem, folder = filesystem_of(output_dir)
    task = _Task(examples, batches, has_dev, model, training, alpha, seed, output_dir, "", fence, tag)
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
            trainer = worker_group(
                _work,
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

    examples: StageExamples
    batches: Callable[..., Batches]
    has_dev: bool
    model: ModelConfig
    training: TrainingConfig
    alpha: float
    seed: int
    output_dir: str
    checkpoints: str
    fence: Fence
    tag: str | None = None


def _work(loop_config: dict[str, Any]) -> FitReport:
    """One worker's whole run; Ray Train hands rank 0's return value to the driver."""
    import ray
    import torch
    from ray import train as ray_train
    from ray.train import collective
    from transformers.utils import logging

    from cotray.models.loading import load_tokenizer
    from cotray.training.chat_settings import ChatSettings
    from cotray.training.loop import train
    from cotray.training.model_folder import export

    logging.disable_progress_bar()
    task: _Task = ray.get(loop_config["task"])
    relay = loop_config["relay"]
    is_first = ray_train.get_context().get_world_rank() == 0
    torch.set_num_threads(max(1, int(task.training.num_cpus)))
    tokenizer = load_tokenizer(task.model.model, revision=task.model.revision)
    # Rank 0 decides: nodes of different kinds would not agree.
    precision: Any = collective.broadcast_from_rank_zero(_precision(task) if is_first else None)
    model = _loaded(task, precision)

    def report(metrics: dict[str, float]) -> None:
        # ray.train.report would cost a barrier and a poll of the controller per step.
        if is_first:
            relay.push.remote(metrics)

    examples = task.examples.opened()
    checkpoints = CheckpointWriter(task.checkpoints)
    with contextlib.ExitStack() as stack:
        began = time.time()
        newest_there = with_retries(lambda: newest(task.checkpoints)[0]) if is_first else None
        found = collective.broadcast_from_rank_zero(newest_there)
        state = train(
            model,
            tokenizer,
            task.batches(examples),
            examples.rows("factual", "dev") if task.has_dev else (),
            task.training,
            alpha=task.alpha,
            seed=task.seed,
            report=report,
            save_checkpoint=checkpoints,
            restore_from=stack.enter_context(as_folder(found)) if found else None,
            notice=notice,
        )
    checkpoints.wait()
    work = Work(began, time.time())
    files: list[FileEntry] = []
    with tempfile.TemporaryDirectory(prefix="cotray-export-") as local:
        chat = None if task.tag is None else ChatSettings(task.tag, task.training.max_length)
        export(state, tokenizer, local, chat=chat)
        if is_first:
            task.fence.check()
            files = with_retries(lambda: upload(local, task.output_dir))
    if ray_train.get_context().get_local_rank() == 0:
        task.examples.forget()
    if is_first:
        ray.get(relay.push.remote({}))  # everything before it has arrived
    return replace(_summarize(state), files=tuple(files), precision=precision, work=work)


def _loaded(task: _Task, precision: Dtype) -> PreTrainedModel:
    """The model, sharded; refused where it cannot be trained as the section says."""
    from cotray.training.blocks import change_blocks
    from cotray.training.chunked_loss import check_chunked
    from cotray.training.fsdp import reshard
    from cotray.training.loss import token_loss_sum
    from cotray.training.packing import check_packing
    from cotray.training.sharded_loading import load_for_training

    name = task.model.model
    model = load_for_training(
        name,
        revision=task.model.revision,
        num_layers=task.model.num_layers,
        precision=precision,
        sharding=task.training.sharding,
        offload=task.training.offload,
        adapter=_adapter(task.model),
        seed=task.seed,
        change=partial(change_blocks, task.training),
    )
    if task.training.batching == "packed":
        check_packing(model, name)
    if task.training.loss_chunk:
        check_chunked(model, name, token_loss_sum)
    reshard(model)
    return model


def _precision(task: _Task) -> Dtype:
    """Of the computation on all workers, whatever their nodes have: what the run began with."""
    import torch

    from cotray.models.loading import compute_dtype

    at_hand = compute_dtype(task.training.precision, "cuda" if task.training.num_gpus else "cpu")
    precision: Precision = "bfloat16" if at_hand == torch.bfloat16 else "float32"
    return with_retries(lambda: settled_precision(task.checkpoints, precision))


def _summarize(state: TrainState) -> FitReport:
    history = state.progress.history
    return FitReport(
        num_steps=state.progress.step,
        num_epochs=len(history),
        best_dev_loss=state.progress.best_dev_loss,
        tokens_per_s=sum(row["num_tokens"] for row in history) / sum(row["train_s"] for row in history),
        history=tuple(history),
    )


def _adapter(model: ModelConfig) -> AdapterConfig | None:
    return model.adapter if isinstance(model, StudentConfig) else None


def _fingerprint(task: _Task) -> str:
    """Names what determines the weights: model, knobs, seed and examples."""
    training = json.dumps(task.training.settings(), sort_keys=True)
    model = task.model.model_dump_json(include={"model", "revision", "num_layers"})
    if adapter := _adapter(task.model):
        model += adapter.model_dump_json()
    assert isinstance(task.batches, partial)
    batches = f"{task.batches.func.__qualname__} {sorted(task.batches.keywords.items())} {task.has_dev}"
    return f"{digest(task.seed, model, training, str(task.alpha), task.examples.version, batches):016x}"


def _cause(error: Exception) -> str:
    """The first worker's exception in one line; Ray Train wraps it, with its traceback as the text."""
    failures = getattr(error, "worker_failures", {})
    first = next(iter(failures.values()), error)
    first = getattr(first, "_base_exc", first)
    return f"{type(first).__name__}: {' '.join(str(first).split())[:300]}"
