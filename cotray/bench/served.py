"""A student on a Ray Serve of its own, for the benchmarks of the endpoint."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cotray.config import RunConfig, parse_config
from cotray.models.locations import model_path
from cotray.storage.run_folder import Manifest, RunFolder


def served_config(
    run_dir: Path, student: str, *, max_new_tokens: int, serving: dict[str, Any] | None = None
) -> RunConfig:
    """Of a run folder as `score` leaves it, which is made here; the models' files are links."""
    folder = RunFolder(str(run_dir))
    for stage, name in (("student", student), ("simulator", "random:t5")):
        shutil.copytree(model_path(name), run_dir / stage, copy_function=os.symlink)
        folder.begin(stage, settings={}, input="", overwrite=False)
        folder.finish(Manifest(stage, {}, "", 0, 0, 0))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return parse_config(
        {
            "run_dir": str(run_dir),
            "scoring": {"max_new_tokens": max_new_tokens},
            "serving": {"engine": "transformers", "port": port} | (serving or {}),
        }
    )


@contextlib.contextmanager
def served(config: RunConfig, folder: Path) -> Iterator[str]:
    """The address of the student, on a Ray of its own whose files lie in `folder`: eight logical CPUs."""
    os.environ["RAY_TMPDIR"] = str(folder)

    from cotray.config import RayConfig
    from cotray.deployments.application import deploy, end_serve
    from cotray.pools.ray_cluster import cluster

    with cluster(RayConfig(num_cpus=8, object_store_mib=150)):
        try:
            deploy(config)
            yield f"http://127.0.0.1:{config.serving.port}"
        finally:
            end_serve()
