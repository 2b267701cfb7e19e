"""What a run asks of object storage, of the driver and of the monitor, and whether it grows with the rows.

The fake teacher writes rationales to an S3 server on this machine that answers after 30 ms, as one in the
same region does. Requests are those of `generate` alone, from its first to its last.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cotray.bench.counting_s3 import COUNTS_PATH
from cotray.bench.generate import BATCH_SIZE, fake_config, local_cluster, write_requests
from cotray.bench.memory import descendants
from cotray.errors import ConfigError
from cotray.pools import monitor
from cotray.storage.filesystems import s3_client

NUM_REPLICAS = 8
SECONDS_PER_BATCH = 0.5
DELAY_S = 0.03
BUCKET = "cotray-bench"


class CountingMonitor(monitor.Monitor):
    """The monitor, which also counts the calls that it answers."""

    num_calls = 0

    def calls(self) -> int:
        return self.num_calls


def _counted(method: Callable[..., Any]) -> Callable[..., Any]:
    def counted(self: CountingMonitor, *arguments: Any) -> Any:
        before = self.num_calls
        answer = method(self, *arguments)
        self.num_calls = before + 1  # a method that it calls itself is no call from outside
        return answer

    return counted


for _name in ("loading", "started", "begin", "progress", "made", "end", "drop", "add", "read"):
    setattr(CountingMonitor, _name, _counted(getattr(monitor.Monitor, _name)))


def bench_storage(*, sizes: tuple[int, ...] = (10_000, 100_000)) -> dict[str, Any]:
    """Print a line for each size and return the figures; those without a size are of the largest."""
    figures: dict[str, Any] = {}
    try:
        import moto  # noqa: F401
    except ImportError:
        raise ConfigError("the benchmark `storage` needs a server: pip install 'moto[server]'") from None
    with counting_s3(DELAY_S) as url, local_cluster():
        for size in sizes:
            figures |= _generate(url, size)
    figures |= {name: figures[f"{name}_{sizes[-1]}"] for name in _NAMES}
    for name, value in figures.items():
        print(f"{name}: {value:.3f}")
    return figures


_NAMES = ("s3_requests_per_1k_rows", "driver_cpu_share", "monitor_cpu_share", "monitor_calls_per_s")


@contextlib.contextmanager
def counting_s3(delay_s: float) -> Iterator[str]:
    """The URL of a server of its own, which AWS's variables name while the block runs."""
    with tempfile.TemporaryFile() as log:
        command = [sys.executable, "-m", "cotray.bench.counting_s3", "--delay-s", str(delay_s)]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            variables = {
                "AWS_ENDPOINT_URL": url,
                "AWS_ENDPOINT_URL_S3": url,
                "AWS_ACCESS_KEY_ID": "bench",
                "AWS_SECRET_ACCESS_KEY": "bench",
                "AWS_REGION": "us-east-1",
            }
            before = {name: os.environ.get(name) for name in variables}
            os.environ.update(variables)
            try:
                s3_client().create_bucket(Bucket=BUCKET)
                yield url
            finally:
                for name, value in before.items():
                    os.environ.pop(name)
                    if value is not None:
                        os.environ[name] = value
        finally:
            server.kill()
            server.wait()


def _generate(url: str, num_rows: int) -> dict[str, float]:
    from cotray.stages.generate import generate

    config = fake_config(Path("unused"), NUM_REPLICAS, SECONDS_PER_BATCH)
    config = config.model_copy(update={"run_dir": f"s3://{BUCKET}/rows-{num_rows}"})
    write_requests(config, num_rows)
    plain, monitor.Monitor = monitor.Monitor, CountingMonitor  # type: ignore[misc]
    before, cpu, began = _requests(url), time.process_time(), time.perf_counter()
    try:
        with _monitor_watched() as watched:
            generate(config, label=f"bench: {num_rows:,} rows")
    finally:
        monitor.Monitor = plain  # type: ignore[misc]
    seconds, driver_s = time.perf_counter() - began, time.process_time() - cpu
    requests = _requests(url) - before
    kinds = ", ".join(f"{count} {kind}" for kind, count in requests.most_common())
    print(f"{num_rows:>9,} rows in {seconds:.0f} s, batches of {BATCH_SIZE}: {kinds}", flush=True)
    return {
        f"s3_requests_per_1k_rows_{num_rows}": 1000 * requests.total() / num_rows,
        **{f"s3_{kind.lower()}_per_1k_rows_{num_rows}": 1000 * n / num_rows for kind, n in requests.items()},
        f"driver_cpu_share_{num_rows}": driver_s / seconds,
        f"monitor_cpu_share_{num_rows}": watched["cpu_s"] / seconds,
        f"monitor_calls_per_s_{num_rows}": watched["calls"] / seconds,
    }


def _requests(url: str) -> Counter[str]:
    with urllib.request.urlopen(url + COUNTS_PATH) as answer:
        return Counter(json.load(answer))


@contextlib.contextmanager
def _monitor_watched() -> Iterator[dict[str, float]]:
    """Calls and CPU seconds of the monitor of the stage that runs inside, asked for every half second."""
    import ray

    from cotray.pools import stall_watchdog

    last = {"calls": 0.0, "cpu_s": 0.0}
    stop = threading.Event()

    def poll() -> None:
        while not stop.wait(0.5):
            watch = stall_watchdog._watch
            if watch is not None:
                last["calls"] = ray.get(watch.monitor.calls.remote())
                pids = descendants(lambda title: title.startswith("ray::CountingMonitor"))
                last["cpu_s"] = max(last["cpu_s"], sum(map(_cpu_s, pids)))

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield last
    finally:
        stop.set()
        thread.join()


def _cpu_s(pid: int) -> float:
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0
