"""The application for tests: a run folder with untrained models, served on a Ray cluster of its own."""

from __future__ import annotations

import contextlib
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from local_ray import local_ray

from cotray.bench.memory import descendants
from cotray.config import RunConfig, parse_config
from cotray.models.locations import model_path
from cotray.storage.run_folder import Manifest, RunFolder

KEY = "test-key"


def run_folder(root: Path, *, student: str, simulator: str = "random:t5") -> str:
    """A folder as `score` leaves it."""
    folder = RunFolder(str(root))
    for stage, model in (("student", student), ("simulator", simulator)):
        shutil.copytree(model_path(model), root / stage)
        folder.begin(stage, settings={}, input="", overwrite=False)
        folder.finish(Manifest(stage, {}, "", 0, 0, 0))
    return str(root)


def serving_config(run_dir: str, **serving: Any) -> RunConfig:
    """On a free port, every live answer simulated."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    serving = {"engine": "transformers", "port": port, "live_share": 1.0, "live_window": 50} | serving
    return parse_config({"run_dir": run_dir, "scoring": {"max_new_tokens": 16}, "serving": serving})


@contextlib.contextmanager
def served(config: RunConfig) -> Iterator[str]:
    """The address of the application."""

    from cotray.deployments.application import deploy, end_serve
    from cotray.pools.ray_cluster import cluster

    with pytest.MonkeyPatch.context() as patch, local_ray(num_cpus=8):
        patch.setenv("COTRAY_API_KEYS", KEY)
        try:
            with cluster(config.ray):
                deploy(config)
                yield f"http://127.0.0.1:{config.serving.port}"
        finally:
            end_serve()


def replicas(name: str) -> list[int]:
    """Processes of a deployment's replicas, on the cluster that this process started."""
    return descendants(lambda title: title.startswith(f"ray::ServeReplica:cotray:{name}"))


def wait_for(condition: Callable[[], Any]) -> Any:
    for _ in range(600):
        if value := condition():
            return value
        time.sleep(0.1)
    raise AssertionError("not within a minute")
