"""Student, simulator and online LAS as one Ray Serve application; stages/serve.py says how to start it."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import time
from collections.abc import Iterator
from typing import Any

import ray
from ray import serve
from ray.serve.config import BackpressureConfig
from ray.serve.context import _get_global_client, _set_global_client
from ray.serve.handle import DeploymentHandle

from cotray.config import RunConfig, load_config, parse_config
from cotray.config.serving import DeploymentConfig, ServingConfig, StudentVersion
from cotray.deployments.backend import RayBackend
from cotray.deployments.las_monitor import LasMonitor
from cotray.deployments.simulator import SimulatorReplica
from cotray.deployments.student import StudentReplica
from cotray.deployments.waiting import run
from cotray.errors import ConfigError, CotrayError, DataError
from cotray.scoring.writing import untrained
from cotray.serving.access import load_keys
from cotray.serving.app import create_app
from cotray.serving.examples import examples_of
from cotray.serving.service import UNDER_WAY
from cotray.storage.run_folder import RunFolder

NAME = "cotray"
"""Of the application among those on the same Serve."""
GRACE_S = 60
"""A replica that is to go finishes what it has, for so long."""
END_S = 30
"""Serve's controller ends all else and then itself, within so long."""
TARGET_SHARE = 0.7
"""Of the requests that a replica takes at most: others are asked for before it is full, as they load long."""
SURGE = 100
"""Per cent. New replicas are ready before the old ones go, so that a new student costs no request."""


def build_app(arguments: dict[str, Any]) -> serve.Application:
    """Ray Serve's application builder: the configuration's keys, `config` names a file that they override."""
    return _application(_config(arguments))


def _application(config: RunConfig) -> serve.Application:
    serving = config.serving
    versions = serving.students or (StudentVersion(name="student", run_dir=config.run_dir),)
    folders = {version.name: _run_folder(config, version.run_dir) for version in versions}
    students = {
        name: _models(StudentReplica, f"student-{name}", serving.student, serving.max_queued).bind(
            config, folder.uri("student")
        )
        for name, folder in folders.items()
    }
    simulators = {
        name: _models(SimulatorReplica, f"simulator-{name}", serving.simulator, serving.max_queued).bind(
            config, folder.uri("simulator")
        )
        for name, folder in folders.items()
    }
    monitor = serve.deployment(
        LasMonitor, name="las-monitor", max_ongoing_requests=100, max_queued_requests=100
    ).bind(config, {name: folder.root for name, folder in folders.items()}, simulators)
    ingress = serve.deployment(
        serve.ingress()(Ingress),
        name="ingress",
        # Beside the requests with a key there is room for those that need none, and are short.
        max_ongoing_requests=(UNDER_WAY + 2) * serving.max_queued,
        max_queued_requests=(UNDER_WAY + 2) * serving.max_queued,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=1),
        graceful_shutdown_timeout_s=GRACE_S,
        max_surge_percent=SURGE,
    )
    shares = {version.name: version.share for version in versions}
    untrained = {name: said for name, folder in folders.items() if (said := _untrained(folder))}
    return ingress.bind(config, load_keys(serving), shares, students, simulators, monitor, untrained)


def _config(arguments: dict[str, Any]) -> RunConfig:
    overrides = {key: value for key, value in arguments.items() if key != "config"}
    if "config" not in arguments:
        return parse_config(_nested(overrides), source="serve arguments")
    # Text is YAML already, as on every command line.
    texts = {key: v if isinstance(v, str) else json.dumps(v) for key, v in overrides.items()}
    return load_config(arguments["config"], [f"{key}={text}" for key, text in texts.items()])


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
            if not folder.exists("student/config.json"):
                raise ConfigError(f"{folder.root}: method few-shot trained no student; name another run")
            return folder
    raise DataError(f"{run_dir}: no finished student/ and simulator/; run `cotray run` or `score` first")


def _untrained(folder: RunFolder) -> str | None:
    answers = folder.manifest("answers")
    return untrained(answers.metrics.get("writing")) if answers else None


def problems_of(config: RunConfig, *, is_here: bool) -> list[str]:
    """What would keep the application from coming up, beside the cluster: models, keys and, where that is on
    this machine, the port."""
    serving = config.serving
    found = []
    for version in serving.students or (StudentVersion(name="student", run_dir=config.run_dir),):
        try:
            _run_folder(config, version.run_dir)
        except CotrayError as error:
            found.append(str(error))
    try:
        load_keys(serving)
    except ConfigError as error:
        found.append(str(error))
    try:
        if is_here:
            socket.create_server((serving.host, serving.port)).close()
    except OSError as error:
        found.append(
            f"serving.port: {serving.host}:{serving.port} cannot be listened on ({error.strerror}); end what "
            "listens there, or choose another"
        )
    return found


def _models(replica: type, name: str, config: DeploymentConfig, max_queued: int) -> serve.Deployment:
    """A deployment that Serve scales by the requests under way."""
    # Two batches per replica: one in the model, one gathering.
    ongoing = 2 * config.max_batch_size
    return serve.deployment(  # pyright: ignore[reportReturnType]
        replica,
        name=name,
        autoscaling_config={
            "min_replicas": config.replicas.min,
            "max_replicas": config.replicas.max,
            "target_ongoing_requests": TARGET_SHARE * ongoing,
        },
        max_ongoing_requests=ongoing,
        max_queued_requests=max_queued,
        graceful_shutdown_timeout_s=GRACE_S,
        max_surge_percent=SURGE,
        ray_actor_options={"num_cpus": config.num_cpus, "num_gpus": config.num_gpus},
    )


class Ingress:
    """The HTTP application on a Serve replica."""

    def __init__(
        self,
        config: RunConfig,
        keys: tuple[str, ...],
        shares: dict[str, float],
        students: dict[str, DeploymentHandle],
        simulators: dict[str, DeploymentHandle],
        monitor: DeploymentHandle,
        untrained: dict[str, str],
    ) -> None:
        self.config, self.keys, self.untrained = config, keys, untrained
        most = config.serving.max_queued
        self.backend = RayBackend(shares, students, simulators, monitor, max_observed=most)
        _show_access_log()

    def __serve_build_asgi_app__(self) -> Any:
        offered = examples_of(self.config.data)
        return create_app(self.backend, self.config.serving, self.keys, offered, self.untrained)


def _show_access_log() -> None:
    """cotray's lines as they are, to the replica's standard error; Serve sets up its own logger alone."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("cotray")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)


@contextlib.contextmanager
def deployed(config: RunConfig) -> Iterator[None]:
    """The application is up inside, on the cluster we are connected to; nobody else's ends with it."""
    application = _application(config)
    is_started = _start_serve(config.serving)
    try:
        run(application, NAME, stall_timeout_s=config.serving.stall_timeout_s)
        yield
    finally:
        shutdown(stop_serve=is_started)


def deploy(config: RunConfig) -> None:
    """Bring the application up, or in place of the one before, and return when every model is loaded."""
    application = _application(config)
    _start_serve(config.serving)
    run(application, NAME, stall_timeout_s=config.serving.stall_timeout_s)


def _start_serve(serving: ServingConfig) -> bool:
    """False where it ran already."""
    # No timeout of the proxy's: it would answer in a shape of its own.
    options = {"host": serving.host, "port": serving.port, "request_timeout_s": None}
    running = _get_global_client(raise_if_no_controller_running=False)
    if running is None:
        serve.start(http_options=options)
    else:
        _check_listening(running.http_config.model_dump(), options)
    return running is None


def _check_listening(real: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Serve listens once for all applications of a cluster, and keeps the options it was started with."""
    different = [
        f"{name} {real[name]} and not {value}" for name, value in wanted.items() if real[name] != value
    ]
    if different:
        raise ConfigError(
            f"Serve runs on this cluster already, with {', '.join(different)}; set serving.host and "
            "serving.port to what it has, or end it first with `serve shutdown`"
        )


def shutdown(*, stop_serve: bool = False) -> None:
    """Take the application away; its replicas first finish what they have.

    `stop_serve`: and Serve with it, unless somebody else has an application there.
    """
    with contextlib.suppress(TimeoutError):  # Serve goes on with it
        serve.delete(NAME)
    if stop_serve and not serve.status().applications:
        end_serve()


def end_serve() -> None:
    """`serve.shutdown()`, but without the call that Serve leaves open until its controller is gone: Ray would
    report it as a failure that it retries without end."""
    client = _get_global_client(raise_if_no_controller_running=False)
    if client is None:
        return
    client.shutdown_cached_handles()
    ray.get(client._controller.graceful_shutdown.remote(wait=False))
    until = time.monotonic() + END_S
    with contextlib.suppress(ValueError):  # it is gone
        while time.monotonic() < until:
            ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
            time.sleep(0.1)
    _set_global_client(None)
