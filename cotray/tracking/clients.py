"""Where a training is followed, each through its own client: TensorBoard, MLflow, Weights & Biases, Trackio.

Servers, projects and keys are what the clients' own environment variables say. A client is imported where
it is used, so that none needs to be installed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from cotray.config.training import Tracking

PROJECT = "cotray"
"""Of MLflow's experiment and of the others' project, where their variables name none."""
PARAMS_AT_ONCE = 100
"""MLflow takes no more of them in one request, and of a value so many characters:"""
PARAM_CHARS = 6000


@dataclass(frozen=True)
class TrackedRun:
    """A training as trackers know it; interrupted and resumed it is the same one."""

    id: str
    """Hexadecimal, of this training alone; made anew where a stage is made again."""
    name: str
    """Where its model will lie, such as runs/demo/greedy/student."""
    settings: Mapping[str, Any]
    events: str
    """The folder of TensorBoard's files."""


@dataclass(frozen=True)
class Row:
    """Metrics of a step, counted from 1; `time` in seconds since the epoch."""

    step: int
    time: float
    values: Mapping[str, float]


class Tracker(Protocol):
    def log(self, row: Row) -> None: ...

    def close(self, *, is_done: bool) -> None:
        """Everything has arrived; the run is over if `is_done`, else it failed or may be resumed."""
        ...


def open_tracker(name: Tracking, run: TrackedRun, *, first_step: int) -> Tracker:
    """Begin the run there, or go on with it; what it may have from `first_step` on does not count."""
    if name == "tensorboard":
        return TensorBoard(run, first_step)
    return {"mlflow": MLflow, "wandb": Wandb, "trackio": Trackio}[name](run)


class TensorBoard:
    def __init__(self, run: TrackedRun, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(run.events, purge_step=first_step)
        lines = (f"    {name}: {value}" for name, value in flat(run.settings).items())
        self.writer.add_text("settings", "\n".join([f"    run: {run.name}", *lines]), first_step)

    def log(self, row: Row) -> None:
        for name, value in row.values.items():
            self.writer.add_scalar(name, value, row.step, walltime=row.time)

    def close(self, *, is_done: bool) -> None:
        self.writer.close()


class MLflow:
    def __init__(self, run: TrackedRun) -> None:
        from mlflow.entities import Metric, Param  # pyright: ignore[reportMissingImports]
        from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports]

        self.client, self.metric = MlflowClient(), Metric
        experiment = self._experiment()
        found = self.client.search_runs([experiment], f"tags.`cotray.id` = '{run.id}'", max_results=1)
        if found:
            self.run_id = found[0].info.run_id
            self.client.update_run(self.run_id, status="RUNNING")
            return
        created = self.client.create_run(experiment, tags={"cotray.id": run.id}, run_name=run.name)
        self.run_id = created.info.run_id
        params = [Param(name, str(value)[:PARAM_CHARS]) for name, value in flat(run.settings).items()]
        for start in range(0, len(params), PARAMS_AT_ONCE):
            self.client.log_batch(self.run_id, params=params[start : start + PARAMS_AT_ONCE])

    def _experiment(self) -> str:
        """Its id. Another process may make it at the same time."""
        from mlflow.exceptions import MlflowException  # pyright: ignore[reportMissingImports]

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        if found := self.client.get_experiment_by_name(name):
            return found.experiment_id
        try:
            return self.client.create_experiment(name)
        except MlflowException:
            if found := self.client.get_experiment_by_name(name):
                return found.experiment_id
            raise

    def log(self, row: Row) -> None:
        milliseconds = int(row.time * 1000)
        metrics = [self.metric(name, value, milliseconds, row.step) for name, value in row.values.items()]
        self.client.log_batch(self.run_id, metrics=metrics)

    def close(self, *, is_done: bool) -> None:
        self.client.set_terminated(self.run_id, "FINISHED" if is_done else "FAILED")


class Wandb:
    def __init__(self, run: TrackedRun) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run.id,
            name=run.name,
            config=dict(run.settings),
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(console="off", silent=True),
        )

    def log(self, row: Row) -> None:
        self.run.log(dict(row.values), step=row.step)

    def close(self, *, is_done: bool) -> None:
        self.run.finish(exit_code=0 if is_done else 1)


class Trackio:
    def __init__(self, run: TrackedRun) -> None:
        import trackio  # pyright: ignore[reportMissingImports]

        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        # A run is known by its name there.
        name = f"{run.name}-{run.id[:8]}"
        self.run = trackio.init(project, name=name, config=flat(run.settings), resume="allow", embed=False)

    def log(self, row: Row) -> None:
        self.run.log(dict(row.values), step=row.step)

    def close(self, *, is_done: bool) -> None:
        self.run.finish()


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{a: {b: 1}} as {a.b: 1}; lists stay whole."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found
