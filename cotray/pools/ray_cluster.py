"""Joining a Ray cluster: a running one where RAY_ADDRESS or ray.address names it, else one of our own."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator

from cotray.config import RayConfig, StorageConfig
from cotray.errors import ConfigError, StageError
from cotray.pools.fork_server import fork_server, short_starts
from cotray.pools.native_stderr import without_known_lines
from cotray.storage.filesystems import environment

HIDES_GPUS = ("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
"""From tasks and actors that have asked for none; Ray would let them use the first one."""
_is_own = False
"""Whether the cluster is one that this process has started for itself."""


def is_local(config: RayConfig) -> bool:
    """Whether `cluster` would start one of this process's own."""
    import ray

    address = os.environ.get("RAY_ADDRESS") or config.address
    return address == "local" and not ray.is_initialized()


def can_grow() -> bool:
    """Whether somebody, such as an autoscaler, may add nodes to the cluster that we have joined."""
    return not _is_own


def num_nodes() -> int:
    """Nodes of the cluster that are alive."""
    import ray

    return sum(node["Alive"] for node in ray.nodes())


@contextlib.contextmanager
def cluster(config: RayConfig, storage: StorageConfig | None = None) -> Iterator[None]:
    """Ray is up inside, and its workers know the storage; what was started here, and only that, is shut
    down after."""
    # Read by Ray at import: no usage report, no half-minute of draining when a local cluster stops,
    # and no message per killed idle worker.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "0")
    os.environ.setdefault(*HIDES_GPUS)
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    # Replicas that wait for a node ask for it; Ray Data would ask too, and hold nodes until a stage ends.
    for kind in ("CPU", "GPU", "MEMORY", "OBJECT_STORE_MEMORY"):
        os.environ.setdefault(f"RAY_DATA_DEFAULT_CLUSTER_SCALING_UP_{kind}_UTIL_THRESHOLD", "1000000")
    import ray
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    ray.data.DataContext.get_current().print_on_execution_start = False
    # It prints tracebacks of errors that are also raised.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS") or config.address
    with without_known_lines(), _local(config) if is_local(config) else _running(address, storage):
        try:
            yield
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _local(config: RayConfig) -> Iterator[None]:
    import ray

    # For Ray's dashboard, which a local cluster has not; with many tasks they fill its memory.
    os.environ.setdefault("RAY_task_events_report_interval_ms", "0")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # nobody takes this machine away
    with fork_server() as runtime_env, short_starts():
        with _told_of_a_late_start():
            ray.init(
                address="local",
                num_cpus=config.num_cpus,
                object_store_memory=config.object_store_mib << 20,
                include_dashboard=False,
                runtime_env=runtime_env,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
        global _is_own
        _is_own = True
        try:
            yield
        finally:
            _is_own = False


@contextlib.contextmanager
def _told_of_a_late_start() -> Iterator[None]:
    """Ray gives its processes 30 s, and raises a bare Exception after that."""
    try:
        yield
    except Exception as error:
        if "timed out during startup" not in str(error):
            raise
        raise StageError(
            "Ray did not start on this machine within 30 s, as happens where other work takes all CPUs or "
            "memory; give the same command again when there is less of it. If there is none, Ray's logs in "
            f"{os.environ.get('RAY_TMPDIR', '/tmp')}/ray/session_latest/logs have the cause"
        ) from None


@contextlib.contextmanager
def _running(address: str, storage: StorageConfig | None) -> Iterator[None]:
    import ray

    variables = dict([HIDES_GPUS]) | (environment(storage) if storage else {})
    try:
        ray.init(
            address=address,
            runtime_env={"env_vars": variables},
            logging_level=logging.WARNING,
            log_to_driver=False,
        )
    except ConnectionError as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"ray.address: no Ray cluster at {address} ({reason}); start one, or unset RAY_ADDRESS and "
            "ray.address for one on this machine"
        ) from None
    yield
