"""serve: the student, the simulator and online LAS as one Ray Serve application.

    serve run cotray.stages.serve:build_app run_dir=/path/to/run/contrast-wrong
    python -m jobs.serve -c CONFIG

A RayService's serveConfigV2 names the same `build_app`; its `args` are the configuration's tree.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle

from cotray.config import RunConfig, parse_config
from cotray.config_serving import DeploymentConfig
from cotray.data.store import RunFolder
from cotray.errors import DataError
from cotray.records import QAPair, Reply, Simulation, StudentAnswer
from cotray.serving.access import load_keys
from cotray.serving.app import create_app
from cotray.serving.service import Busy
from cotray.stages.deployments import LasMonitor, SimulatorReplica, StudentReplica

GRACE_S = 60
"""A replica that is to go finishes what it has, for so long."""


def build_app(arguments: dict[str, Any]) -> serve.Application:
    """The application of one configuration tree; Ray Serve's application builder."""
    config = parse_config(_nested(arguments), source="serve arguments")
    serving = config.serving
    runs = {version.name: version.run_dir for version in serving.students} or {"student": config.run_dir}
    shares = {version.name: version.share for version in serving.students} or {"student": 1.0}
    folders = {name: _run_folder(config, run_dir) for name, run_dir in runs.items()}
    students = {
        name: serve.deployment(
            StudentReplica, name=f"student-{name}", **_options(serving.student, serving.max_queued)
        ).bind(config, folder.uri("student"))
        for name, folder in folders.items()
    }
    first = next(iter(folders.values()))
    simulator = serve.deployment(
        SimulatorReplica, name="simulator", **_options(serving.simulator, serving.max_queued)
    ).bind(config, first.uri("simulator"))
    monitor = serve.deployment(LasMonitor, name="las-monitor", num_replicas=1, max_ongoing_requests=100).bind(
        config, first.root, list(shares), simulator
    )
    ingress = serve.deployment(
        serve.ingress()(Ingress),
        name="ingress",
        num_replicas=1,
        max_ongoing_requests=10 * serving.max_queued,
        graceful_shutdown_timeout_s=GRACE_S,
    )
    return ingress.bind(config, load_keys(serving), shares, students, simulator, monitor)


def _nested(arguments: dict[str, Any]) -> dict[str, Any]:
    """`a.b=c`, as `serve run` takes them, into a tree."""
    tree: dict[str, Any] = {}
    for key, value in arguments.items():
        *parents, leaf = key.split(".")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[leaf] = value
    return tree


def _run_folder(config: RunConfig, run_dir: str) -> RunFolder:
    """The folder of one method: run_dir itself, or the configured method's below it."""
    for folder in (RunFolder(run_dir), RunFolder(f"{run_dir.rstrip('/')}/{config.method}")):
        if folder.manifest("student") and folder.manifest("simulator"):
            return folder
    raise DataError(
        f"{run_dir}: no finished student/ and simulator/; run `python -m jobs.run` or `score` first"
    )


def _options(deployment: DeploymentConfig, max_queued: int) -> dict[str, Any]:
    replicas = deployment.replicas
    # Two batches per replica: one in the model, one gathering.
    ongoing = 2 * deployment.max_batch_size
    scaling = {"min_replicas": replicas.min, "max_replicas": replicas.max, "target_ongoing_requests": ongoing}
    return {
        "autoscaling_config": scaling,
        "max_ongoing_requests": ongoing,
        "max_queued_requests": max_queued,
        "graceful_shutdown_timeout_s": GRACE_S,
        "ray_actor_options": {"num_cpus": deployment.num_cpus, "num_gpus": deployment.num_gpus},
    }


class RayBackend:
    """`cotray.serving.service.Backend` over Serve's handles: no HTTP between the models."""

    def __init__(
        self,
        shares: dict[str, float],
        students: dict[str, DeploymentHandle],
        simulator: DeploymentHandle,
        monitor: DeploymentHandle,
        *,
        max_observed: int,
    ) -> None:
        self.shares, self.students, self.simulator, self.monitor = shares, students, simulator, monitor
        self.max_observed, self.observing = max_observed, set[asyncio.Task]()

    async def answer(self, model: str, pair: QAPair, rationale: str | None) -> Reply:
        with _busy():
            return await self.students[model].answer.remote(pair, rationale)

    async def stream(self, model: str, pair: QAPair) -> AsyncIterator[str | Reply]:
        with _busy():
            pieces: Any = self.students[model].options(stream=True).stream.remote(pair)
            async for piece in pieces:
                yield piece

    async def simulate(self, row: StudentAnswer) -> Simulation:
        with _busy():
            return await self.simulator.simulate.remote(row)

    def observe(self, model: str, row: StudentAnswer) -> None:
        if len(self.observing) < self.max_observed:
            task = asyncio.ensure_future(self._observe(model, row))
            self.observing.add(task)
            task.add_done_callback(self.observing.discard)

    async def _observe(self, model: str, row: StudentAnswer) -> None:
        with contextlib.suppress(RayError, BackPressureError):
            await self.monitor.observe.remote(model, row)

    async def live(self) -> dict[str, Any]:
        return await self.monitor.live.remote()

    async def ready(self) -> dict[str, bool]:
        """Serve starts the ingress when the models are loaded, and takes it away with them."""
        status = serve.status().applications
        deployments = {k: d for app in status.values() for k, d in app.deployments.items()}
        return {name: d.status.value == "HEALTHY" for name, d in deployments.items()}


@contextlib.contextmanager
def _busy() -> Any:
    try:
        yield
    except BackPressureError as error:
        raise Busy from error


class Ingress:
    """The HTTP application on a Serve replica."""

    def __init__(
        self,
        config: RunConfig,
        keys: tuple[str, ...],
        shares: dict[str, float],
        students: dict[str, DeploymentHandle],
        simulator: DeploymentHandle,
        monitor: DeploymentHandle,
    ) -> None:
        self.config, self.keys = config, keys
        most = config.serving.max_queued
        self.backend = RayBackend(shares, students, simulator, monitor, max_observed=most)

    def __serve_build_asgi_app__(self) -> Any:
        return create_app(self.backend, self.config.serving, self.keys)


def deploy(config: RunConfig) -> None:
    """Start Serve on the cluster we are connected to, and return when every model is loaded."""
    serving = config.serving
    # No timeout of the proxy's: it would answer in a shape of its own.
    serve.start(http_options={"host": serving.host, "port": serving.port, "request_timeout_s": None})
    serve.run(build_app(config.model_dump(mode="json")), name="cotray", route_prefix="/")


def shutdown() -> None:
    """Take the application away; its replicas first finish what they have."""
    serve.shutdown()
