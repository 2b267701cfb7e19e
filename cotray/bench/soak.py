"""Does cotray stay as it is while it runs for long, replicas are killed, and nodes come and go?

- Serving: a tiny untrained student on two replicas, asked at 70 % of the rate that saturates it; every minute
  one replica is killed.
- Generating: the fake teacher on a cluster of two nodes; every minute a third joins and the oldest is killed.
  Each id must be there once in the end.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cotray.bench.generate import BATCH_SIZE, fake_config, write_requests
from cotray.bench.http_load import LoadProcess, Outcome
from cotray.bench.memory import descendants
from cotray.bench.served import served, served_config
from cotray.bench.steadiness import report, watched
from cotray.config import dump_config
from cotray.records import Rationale
from cotray.storage.run_folder import RunFolder

LOAD = 0.7
"""Of the saturating rate."""
SATURATED_S = 20
WORKERS = 16
BETWEEN_KILLS_S = 60
REPLICA = "ray::ServeReplica:cotray:student"
SECONDS_PER_BATCH = 2.0
NUM_NODES = 2
"""Each with two replicas."""


def bench_soak(*, minutes: float) -> dict[str, Any]:
    """Print a table for each part, of so many minutes each, and return the figures."""
    print(f"load average before: {os.getloadavg()[0]:.2f} on {os.cpu_count()} CPUs", flush=True)
    figures: dict[str, Any] = {"minutes": minutes}
    for part in (_serving, _generating):
        folder = Path(tempfile.mkdtemp(prefix="ct-", dir="/tmp"))
        (folder / "ray" / "ray").mkdir(parents=True)
        os.environ["TMPDIR"] = os.environ["RAY_TMPDIR"] = str(folder / "ray")
        try:
            figures |= part(folder, 60 * minutes)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return figures


def _serving(folder: Path, seconds: float) -> dict[str, Any]:
    serving = {"api_keys": "open", "student": {"replicas": {"min": 2, "max": 2}}}
    config = served_config(folder / "run", "random:qwen2", max_new_tokens=16, serving=serving)
    bodies = [{"question": f"Is ice colder than {n} degrees?", "task": "yes_no"} for n in range(500)]
    with served(config, folder / "ray") as url:
        rate = LOAD * _saturating_rate(f"{url}/v1/answer", bodies)
        arguments = ("--rate", str(rate), "--seconds", str(seconds), "--most", "10000000")
        with (
            watched(folder / "ray") as watch,
            _repeated(_kill_a_replica) as kills,
            LoadProcess(f"{url}/v1/answer", "open", *arguments) as load,
        ):
            outcomes = load.run(bodies)
    answered, refused = sum(o.is_answered for o in outcomes), sum(o.is_refused for o in outcomes)
    figures = {
        "serving_rate": rate,
        "serving_asked": len(outcomes),
        "serving_answered": answered / len(outcomes),
        "serving_refused": refused / len(outcomes),
        "serving_failed": len(outcomes) - answered - refused,
        "serving_kills": len(kills),
    }
    print(
        f"{rate:.1f} requests/s; of {len(outcomes)} {answered} answered, {refused} told to come again, "
        f"{figures['serving_failed']} failed; {len(kills)} replicas killed"
    )
    return figures | report("serving", watch)


def _saturating_rate(url: str, bodies: list[dict[str, Any]]) -> float:
    """Answers/s of a closed loop."""
    arguments = ("--workers", str(WORKERS), "--seconds", str(SATURATED_S), "--most", "100000")
    with LoadProcess(url, "closed", *arguments) as load:
        outcomes: list[Outcome] = load.run(bodies * 20)
    return sum(outcome.is_answered for outcome in outcomes) / max(outcome.end for outcome in outcomes)


def _kill_a_replica() -> None:
    """The one that has lived longest."""
    for pid in sorted(descendants(lambda title: title.startswith(REPLICA)))[:1]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _generating(folder: Path, seconds: float) -> dict[str, Any]:
    from ray.cluster_utils import Cluster

    num_replicas = 2 * NUM_NODES
    config = fake_config(folder / "run", num_replicas, SECONDS_PER_BATCH)
    num_rows = int(seconds / SECONDS_PER_BATCH) * num_replicas * BATCH_SIZE
    write_requests(config, num_rows)
    path = folder / "run" / "soak.yaml"
    path.write_text(dump_config(config))
    os.environ["RAY_AUTH_MODE"] = "disabled"
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "include_dashboard": False,
            "object_store_memory": 150_000_000,
            "temp_dir": str(folder / "ray" / "ray"),
        },
    )
    nodes = [_add_node(cluster) for _ in range(NUM_NODES)]

    num_killed = 0
    try:
        with watched(folder / "ray") as watch, _generate(path, str(cluster.address)) as generating:
            while not _ends_within(BETWEEN_KILLS_S, generating):
                nodes.append(_add_node(cluster))
                cluster.remove_node(nodes.pop(0), allow_graceful=False)
                num_killed += 1
    finally:
        cluster.shutdown()
    ids = [row.id for row in RunFolder(config.run_dir).read_records("rationales", Rationale)]
    figures = {
        "generating_rows": num_rows,
        "generating_missing": num_rows - len(set(ids)),
        "generating_doubled": len(ids) - len(set(ids)),
        "generating_nodes_killed": num_killed,
    }
    print(
        f"{num_rows} rows: {figures['generating_missing']} missing, {figures['generating_doubled']} doubled; "
        f"{num_killed} nodes killed"
    )
    return figures | report("generating", watch)


def _add_node(cluster: Any) -> Any:
    return cluster.add_node(num_cpus=2, object_store_memory=100_000_000)


@contextmanager
def _generate(path: Path, address: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of its own; RuntimeError if it fails."""
    command = [sys.executable, "-m", "cotray.cli", "generate", "-c", str(path)]
    with (path.parent / "log").open("w+") as log:
        environment = os.environ | {"RAY_ADDRESS": address}
        with subprocess.Popen(command, env=environment, stdout=log, stderr=log) as process:
            yield process
        if process.returncode:
            log.seek(0)
            raise RuntimeError(f"generate failed: {log.read()[-2000:]}")


def _ends_within(seconds: float, process: subprocess.Popen[bytes]) -> bool:
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    return process.poll() is not None


@contextmanager
def _repeated(action: Callable[[], None]) -> Iterator[list[float]]:
    """The action every BETWEEN_KILLS_S while the body runs; gives the moments at which it was done."""
    done: list[float] = []
    stop = threading.Event()

    def repeat() -> None:
        while not stop.wait(BETWEEN_KILLS_S):
            action()
            done.append(time.monotonic())

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield done
    finally:
        stop.set()
        thread.join()
