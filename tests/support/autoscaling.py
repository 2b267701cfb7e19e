"""A Ray cluster on one machine whose nodes come and go with the load: real autoscaler, fake nodes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from ray._private.services import get_node_ip_address
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FakeMultiNodeProvider

from cluster.processes import find, free_ports, kill

_ENVIRONMENT = {
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_AUTH_MODE": "disabled",
    "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
    "RAY_FAKE_CLUSTER": "1",
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_autoscaler_v2": "1",
}
_HEAD = "ray.head.default"
# The autoscaler's schema wants these, the fake nodes have no use for them.
_UNUSED = [
    *("cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands", "setup_commands"),
    *("head_setup_commands", "head_start_ray_commands", "worker_setup_commands", "worker_start_ray_commands"),
]


@dataclass(frozen=True)
class NodeType:
    """One group of equal nodes. GPUs are numbers to Ray, no device is needed."""

    resources: dict[str, float]
    max_workers: int
    min_workers: int = 0
    labels: dict[str, str] = field(default_factory=dict)
    priority: int = 0
    """Of types that would do, the highest is started first."""
    idle_timeout_s: float | None = None
    """In place of the cluster's `idle_seconds`."""


class AutoscalingCluster:
    """Inside the `with` block Ray's head runs and `address` is what `ray.init` takes.

    A driver leaves with `ray.shutdown()` before the block ends, and sets RAY_AUTH_MODE=disabled itself.
    """

    def __init__(
        self,
        node_types: Mapping[str, NodeType],
        *,
        head: Mapping[str, float] | None = None,
        idle_seconds: float = 6,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.node_types = node_types
        self.head = {"CPU": 0.0, **(head or {})}
        self.idle_seconds = idle_seconds
        self.environment = {**os.environ, **_ENVIRONMENT, **(environment or {})}

    def __enter__(self) -> AutoscalingCluster:
        port, client_port = free_ports(2)
        self.address = f"{get_node_ip_address()}:{port}"
        # Short, because Ray puts Unix sockets (107 characters at most) several folders below it.
        self.folder = Path(tempfile.mkdtemp(prefix="ray-"))
        config = self.folder / "cluster.json"
        config.write_text(json.dumps(self._config()))
        command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"]
        command += [f"--port={port}", f"--ray-client-server-port={client_port}", "--include-dashboard=false"]
        command += [f"--temp-dir={self.folder}", f"--autoscaling-config={config}"]
        command += [f"--num-cpus={self.head['CPU']:g}", f"--num-gpus={self.head.get('GPU', 0):g}"]
        command += ["--dashboard-agent-listen-port=0", f"--object-store-memory={100 << 20}"]
        log = self.folder / "head.log"
        with log.open("w") as out:
            self.process = subprocess.Popen(
                command, env=self.environment, stdout=out, stderr=out, start_new_session=True
            )
        try:
            self._wait_for_head(port, log)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End this cluster's processes, and no others, and remove its folder."""
        # Killed rather than terminated: the head would drain and the autoscaler start nodes meanwhile.
        kill(self.pids)
        self.process.poll()
        shutil.rmtree(self.folder, ignore_errors=True)

    def pids(self) -> list[int]:
        """Processes of the head's session, and those whose command line names this cluster."""
        return find([self.process.pid], (f"{self.folder}/", f"={self.address}"))

    def _wait_for_head(self, port: int, log: Path, timeout: float = 60) -> None:
        address = (self.address.split(":")[0], port)
        deadline = time.monotonic() + timeout
        while True:
            with contextlib.suppress(OSError), socket.create_connection(address, 1):
                return
            # Doubles as the pause between two tries.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.1)
            if self.process.returncode is not None or time.monotonic() > deadline:
                raise RuntimeError(f"Ray's head did not start:\n{log.read_text()}")

    def _config(self) -> dict[str, object]:
        provider = f"{FakeMultiNodeProvider.__module__}.{FakeMultiNodeProvider.__qualname__}"
        types = {name: _node_type(kind) for name, kind in self.node_types.items()}
        types[_HEAD] = {"resources": self.head, "node_config": {}, "max_workers": 0}
        return {
            "cluster_name": "test",
            "max_workers": sum(kind.max_workers for kind in self.node_types.values()),
            # By class: the name `fake_multinode` needs a file that Ray's wheels leave out.
            "provider": {
                "type": "external",
                "module": provider,
                "head_node_id": FAKE_HEAD_NODE_ID,
                "launch_multiple": True,
                "gcs_address": self.address,
            },
            "available_node_types": types,
            "head_node_type": _HEAD,
            "upscaling_speed": 1000.0,
            "idle_timeout_minutes": self.idle_seconds / 60,
            "auth": {},
            "docker": {},
            "file_mounts": {},
            "file_mounts_sync_continuously": False,
            **{name: [] for name in _UNUSED},
        }


def _node_type(kind: NodeType) -> dict[str, Any]:
    fields = {key: value for key, value in asdict(kind).items() if value is not None}
    return {**fields, "node_config": {}}
