"""python -m cluster.local [--nodes 3] [--gpus-per-node 1]: a Ray cluster of several nodes on this machine.

For trying out what runs on many: token authentication is on, the head does no work, and GPUs are numbers that
Ray hands out, no device is needed. Ctrl-C ends it, and everything it started.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from cluster.processes import find, free_ports, kill

START_TIMEOUT_S = 120
HEAD_PORTS = (
    *("port", "dashboard-port", "ray-client-server-port"),
    *("dashboard-agent-listen-port", "metrics-export-port"),
)
# More than one node shares this machine's ports.
NODE_PORTS = {"dashboard-agent-listen-port": 0, "min-worker-port": 0, "max-worker-port": 0}


class LocalCluster:
    """Inside the `with` block the cluster runs; `environment` is what its clients and drivers need.

    `url` is the dashboard's, `address` what `ray.init` takes, `token` what every request must carry.
    """

    def __init__(
        self, num_nodes: int = 3, *, cpus_per_node: int = 4, gpus_per_node: int = 0, dashboard_port: int = 0
    ) -> None:
        self.num_nodes = num_nodes
        self.resources = {"num-cpus": cpus_per_node, "num-gpus": gpus_per_node}
        self.dashboard_port = dashboard_port
        self.processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> LocalCluster:
        if self.dashboard_port and not _is_free(self.dashboard_port):
            raise RuntimeError(f"port {self.dashboard_port} is taken; choose another with --port")
        # Short, because Ray puts Unix sockets (107 characters at most) several folders below it.
        self.folder = Path(tempfile.mkdtemp(prefix="ct-", dir="/tmp"))
        ports = dict(zip(HEAD_PORTS, free_ports(len(HEAD_PORTS)), strict=True))
        ports["dashboard-port"] = self.dashboard_port or ports["dashboard-port"]
        self.address = f"127.0.0.1:{ports['port']}"
        self.url = f"http://127.0.0.1:{ports['dashboard-port']}"
        self.token = secrets.token_hex(32)
        (self.folder / "token").touch(mode=0o600)
        (self.folder / "token").write_text(self.token)
        self.environment = {
            **{name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
            # `python` of a job is looked up where the nodes were started.
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAY_API_SERVER_ADDRESS": self.url,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        try:
            self._start("head", "--head", **{"dashboard-host": "127.0.0.1", "num-cpus": 0}, **ports)
            self._wait(lambda: self.num_alive() >= 1)
            for number in range(self.num_nodes):
                self._start(f"node-{number}", f"--address={self.address}", **self.resources, **NODE_PORTS)
            self._wait(lambda: self.num_alive() == 1 + self.num_nodes)
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
        sessions = [process.pid for process in self.processes]
        kill(lambda: find(sessions, (f"{self.folder}/", f"={self.address}")))
        for process in self.processes:
            process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self, name: str, *options: str, **values: object) -> None:
        command = [str(Path(sys.executable).with_name("ray")), "start", "--block", *options]
        # As on machines of their own: nodes that share a folder unpack a job's code over each other.
        command += ["--node-ip-address=127.0.0.1", f"--temp-dir={self.folder / name}"]
        # Drivers here do not ask for the output of workers, and jobs have their own from its file.
        command += ["--object-store-memory=200000000", "--include-log-monitor=false"]
        command += [f"--{option}={value}" for option, value in values.items()]
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command, env=self.environment, cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )
        self.processes.append(process)

    def num_alive(self) -> int:
        """Nodes that are up, the head among them; 0 while the dashboard is not."""
        headers = {"Authorization": f"Bearer {self.token}"}
        request = urllib.request.Request(f"{self.url}/api/v0/nodes", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=5) as response:
                nodes = json.load(response)["data"]["result"]["result"]
        except (OSError, TypeError):
            return 0
        return sum(node["state"] == "ALIVE" for node in nodes)

    def _wait(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not condition():
            for process in self.processes:
                # Doubles as the pause between two tries.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.2)
                if process.returncode is not None or time.monotonic() > deadline:
                    logs = "\n".join(log.read_text() for log in self.folder.glob("*.log"))
                    raise RuntimeError(f"the cluster did not start:\n{logs}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m cluster.local",
        description="A Ray cluster of several nodes on this machine, for trying things out.",
    )
    parser.add_argument("--nodes", type=int, default=3, help="beside the idle head (default 3)")
    parser.add_argument("--cpus-per-node", type=int, default=4, help="logical ones (default 4)")
    parser.add_argument("--gpus-per-node", type=int, default=0, help="numbers without a device (default 0)")
    parser.add_argument("--port", type=int, default=8265, help="of the dashboard and of jobs (default 8265)")
    arguments = parser.parse_args(argv)
    cluster = LocalCluster(
        arguments.nodes,
        cpus_per_node=arguments.cpus_per_node,
        gpus_per_node=arguments.gpus_per_node,
        dashboard_port=arguments.port,
    )
    # Whoever ends it by SIGTERM wants the nodes gone as well.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with cluster:
            names = ("RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")
            print(
                f"A Ray cluster of {arguments.nodes} nodes with {arguments.cpus_per_node} CPUs and "
                f"{arguments.gpus_per_node} GPUs each. In another terminal:\n\n"
                f"    export {' '.join(f'{name}={cluster.environment[name]}' for name in names)}\n"
                "    python -m cluster.submit -- python -m jobs.run -c jobs/configs/smoke.yaml "
                "run_dir=$PWD/runs/smoke\n\n"
                "Ctrl-C ends it.",
                flush=True,
            )
            signal.pause()
    except KeyboardInterrupt:
        pass
    except RuntimeError as error:
        print(f"cotray: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
