"""A one-node Ray in this process, for the tests of one module."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def local_ray(*, num_cpus: int, num_gpus: int = 0, object_store_memory: int = 150_000_000) -> Iterator[str]:
    """The address inside, for other processes. GPUs are declared, not there. Workers are forked."""
    import ray

    from cotray.pools.fork_server import fork_server, short_starts

    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # as cotray's own cluster
    # Short, because Ray puts Unix sockets (107 characters at most) several folders below it.
    folder = tempfile.mkdtemp(prefix="ct-", dir="/tmp")
    with fork_server() as runtime_env, short_starts():
        ray.init(
            address="local",
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            object_store_memory=object_store_memory,
            include_dashboard=False,
            runtime_env=runtime_env,
            log_to_driver=False,
            _temp_dir=folder,
        )
        try:
            yield ray.get_runtime_context().gcs_address
        finally:
            ray.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


def joining(address: str) -> dict[str, str]:
    """The environment of a process that is to join this cluster, with workers that are forked too."""
    import ray

    own = ray.get_runtime_context().runtime_env
    job = {"runtime_env": {"py_executable": own["py_executable"]}}
    return os.environ | {"RAY_ADDRESS": address, "RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps(job)}


def hears_signals() -> None:
    """For Popen's preexec_fn: a shell lets what it starts in the background ignore Ctrl-C, and nohup lets it
    ignore the end of the terminal, which would be inherited."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
