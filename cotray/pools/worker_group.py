"""The group of training workers, as Ray Train makes it: how many, with what, and what it is told of nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cotray.config import TrainingConfig

if TYPE_CHECKING:
    import pyarrow.fs as fs


def worker_group(
    work: Callable[[dict[str, Any]], Any],
    loop_config: dict[str, Any],
    training: TrainingConfig,
    filesystem: fs.FileSystem,
    *,
    storage_path: str,
    name: str,
) -> Any:
    """Ray Train's trainer, which calls `work` with `loop_config` in every worker.

    A worker that is lost costs one of `max_failures`, but where Ray said that its node would go.
    """
    from ray import train
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.config import LoggingConfig

    has_gpus, workers = training.num_gpus > 0, training.num_workers
    resources = {"CPU": training.num_cpus, **({"GPU": training.num_gpus} if has_gpus else {})}
    backend = "nccl" if has_gpus else "gloo"
    if training.offload == "cpu":
        backend = "cpu:gloo,cuda:nccl"  # weights that wait in host memory are gathered there
    return TorchTrainer(
        work,
        train_loop_config=loop_config,
        torch_config=TorchConfig(backend=backend),
        scaling_config=train.ScalingConfig(
            num_workers=workers.max if workers.min == workers.max else (workers.min, workers.max),
            # A group that grows begins again from its last checkpoint.
            elastic_resize_monitor_interval_s=60 * training.checkpoint_minutes,
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


def notice() -> object:
    """What Ray told this worker of nodes of the group that are about to go, such as spot instances."""
    # The public get_preemption_info waits for all workers, which would cost every step a round trip.
    from ray.train.v2._internal.execution.context import get_train_context

    return get_train_context().preemption_context.preemption_info
