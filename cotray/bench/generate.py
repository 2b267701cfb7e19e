"""What Ray adds to a teacher: overhead, scaling, memory over the number of requests, recovery after a kill.

The teacher is the fake one with a fixed time per batch, so that every difference is cotray's and Ray's. Rates
are of the time in which all replicas are running; what starting them takes is given on its own.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from cotray.bench.memory import descendants, pss_mib
from cotray.config import RunConfig, dump_config, parse_config
from cotray.data.prepare import settings_of
from cotray.records import TeacherRequest
from cotray.storage.run_folder import Manifest, RunFolder, fingerprint, schema_of
from cotray.teacher.teacher import build_teacher

BATCH_SIZE = 128
ROWS_PER_SHARD = 2048
SECONDS_PER_BATCH = 0.5


def bench_generate(*, sizes: tuple[int, ...] = (10_000, 100_000, 1_000_000)) -> dict[str, Any]:
    """Print the table and return the figures."""
    folder = Path(tempfile.mkdtemp(prefix="cotray-bench-"))
    try:
        memory = {size: _memory(folder / f"memory-{size}", size) for size in sizes}
        with local_cluster():
            direct = _direct_rate(40)
            runs = {replicas: _run(folder / f"scale-{replicas}", replicas) for replicas in (1, 2, 8)}
            recovery_s = _recovery(folder / "recovery")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return _figures(direct, runs, memory, recovery_s)


def fake_config(run_dir: Path, replicas: int, seconds_per_batch: float, **more: Any) -> RunConfig:
    """Of a run with the fake teacher; `more` goes into the section `teacher`."""
    teacher = {
        "engine": "fake",
        "engine_args": {"seconds_per_batch": seconds_per_batch},
        "batch_size": BATCH_SIZE,
        "replicas": {"min": replicas, "max": replicas},
        "num_cpus": 1,
        **more,
    }
    return parse_config({"run_dir": str(run_dir), "method": "contrast-wrong", "teacher": teacher})


def write_requests(config: RunConfig, num_rows: int) -> None:
    """What `prepare` would have written; shard by shard, so that this process stays small too."""
    folder = RunFolder(config.run_dir)
    schema, settings = schema_of(TeacherRequest), settings_of(config)
    version = fingerprint(settings, "")
    for part, start in enumerate(range(0, num_rows, ROWS_PER_SHARD)):
        count = min(ROWS_PER_SHARD, num_rows - start)
        row = TeacherRequest(
            "", "yes_no", "", ("yes", "no"), "yes", target_answer="yes", contrast_answer="no"
        )
        columns = {name: [value] * count for name, value in row.to_row().items()}
        columns["id"] = [f"q{start + index:08d}" for index in range(count)]
        columns["question"] = [f"Is {start + index} an even number, or is it odd?" for index in range(count)]
        table = pa.table(columns, schema=schema)
        folder.write_table(f"requests/part-{part:05d}.parquet", table, version=version)
    folder.begin("requests", settings=settings, input="", overwrite=False)
    folder.finish(Manifest("requests", settings, "", num_rows, num_rows, 0, {"kind/factual": num_rows}))


@contextlib.contextmanager
def local_cluster() -> Iterator[None]:
    """Eight logical CPUs, whatever the machine has: a fixed time per batch takes none."""
    from cotray.config import RayConfig
    from cotray.pools.ray_cluster import cluster

    with cluster(RayConfig(num_cpus=8)):
        yield


def _direct_rate(num_batches: int) -> float:
    """Rows/s of the teacher alone, in this process."""
    config = fake_config(Path("unused"), 1, SECONDS_PER_BATCH)
    teacher = build_teacher(config.teacher, method=config.decoding_method)
    row = TeacherRequest("", "yes_no", "Even?", ("yes", "no"), "yes", target_answer="yes")
    batches = [[row] * BATCH_SIZE] * num_batches
    started = time.perf_counter()
    for batch in batches:
        teacher.generate(batch)
    return num_batches * BATCH_SIZE / (time.perf_counter() - started)


@dataclass
class Run:
    """One `generate`: rows/s while all replicas ran, and seconds until they did."""

    rate: float
    start_s: float
    points: list[tuple[float, int, int]] = field(default_factory=list)


def _run(run_dir: Path, replicas: int) -> Run:
    """About 40 batches per replica."""
    from cotray.stages.generate import generate

    config = fake_config(run_dir, replicas, SECONDS_PER_BATCH)
    num_rows = 40 * replicas * BATCH_SIZE
    write_requests(config, num_rows)
    began = time.perf_counter()
    with stage_points() as points:
        generate(config, label=f"bench: {replicas} replicas")
    all_run = next(index for index, (_, _, starts) in enumerate(points) if starts == replicas)
    # The last batches find some replicas idle.
    busy = [p for p in points[all_run:] if p[1] <= num_rows - replicas * BATCH_SIZE]
    # From one finished batch to another: between them lies a whole number of batches.
    steps = [after for before, after in itertools.pairwise(busy) if after[1] > before[1]]
    rate = (steps[-1][1] - steps[0][1]) / (steps[-1][0] - steps[0][0])
    return Run(rate, points[all_run][0] - began, points)


@contextlib.contextmanager
def stage_points() -> Iterator[list[tuple[float, int, int]]]:
    """(seconds, finished rows, replicas started) of the stage that runs inside, every 20 ms."""
    import ray

    from cotray.pools import stall_watchdog

    points: list[tuple[float, int, int]] = []
    stop, before = threading.Event(), stall_watchdog._watch

    def poll() -> None:
        while not stop.wait(0.02):
            watch = stall_watchdog._watch
            if watch is not None and watch is not before:
                snapshot: Any = ray.get(watch.monitor.read.remote())
                points.append((time.perf_counter(), snapshot.counts["rows"], snapshot.replica_starts))

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield points
    finally:
        stop.set()
        thread.join()


def _recovery(run_dir: Path) -> float:
    """Seconds from the kill of the only replica to the next finished row."""
    from cotray.stages.generate import generate

    config = fake_config(run_dir, 1, SECONDS_PER_BATCH)
    write_requests(config, 30 * BATCH_SIZE)
    killed: list[tuple[float, int]] = []
    with stage_points() as points:

        def kill() -> None:
            while not points or points[-1][1] < 4 * BATCH_SIZE:
                time.sleep(0.02)
            (pid,) = descendants(lambda title: title.startswith("ray::MapWorker"))
            os.kill(pid, signal.SIGKILL)
            killed.append((time.perf_counter(), points[-1][1]))

        thread = threading.Thread(target=kill, daemon=True)
        thread.start()
        generate(config, label="bench: recovery")
        thread.join()
    # A batch that was written before the kill may be counted just after it.
    (moment, rows) = killed[0]
    return next(at for at, done, _ in points if at > moment and done > rows + BATCH_SIZE) - moment


def _memory(run_dir: Path, num_rows: int) -> dict[str, float]:
    """Peak MiB (PSS) of the driver and of all processes of a `generate` of its own with one replica."""
    config = fake_config(run_dir, 1, 0)
    write_requests(config, num_rows)
    path = run_dir / "bench.yaml"
    path.write_text(dump_config(config))
    command = [sys.executable, "-m", "cotray.cli", "generate", "-c", str(path)]
    started = time.perf_counter()
    peaks = {"driver": 0.0, "all": 0.0}
    with (run_dir / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        while process.poll() is None:
            family = descendants(lambda title: True, of=process.pid)
            sizes = {pid: pss_mib(pid) for pid in [process.pid, *family]}
            peaks["driver"] = max(peaks["driver"], sizes[process.pid])
            peaks["all"] = max(peaks["all"], sum(sizes.values()))
            time.sleep(0.05)  # the smallest run seals in a moment
    if process.returncode:
        raise RuntimeError((run_dir / "log").read_text()[-2000:])
    print(
        f"{num_rows:>9,} requests: {peaks['driver']:.0f} MiB driver, {peaks['all']:.0f} MiB in all",
        flush=True,
    )
    shutil.rmtree(run_dir)
    return peaks | {"seconds": time.perf_counter() - started}


def _figures(
    direct: float, runs: dict[int, Run], memory: dict[int, dict[str, float]], recovery_s: float
) -> dict[str, Any]:
    small, *_, large = sorted(memory)
    figures: dict[str, Any] = {
        "ray_overhead": direct / runs[1].rate - 1,
        "scaling_2": runs[2].rate / runs[1].rate,
        "scaling_8": runs[8].rate / runs[1].rate,
        "memory_1m_over_10k": memory[large]["all"] / memory[small]["all"],
        "driver_memory_1m_over_10k": memory[large]["driver"] / memory[small]["driver"],
        "recovery_s": recovery_s,
    }
    print(f"teacher alone: {direct:.1f} rows/s ({SECONDS_PER_BATCH} s for each batch of {BATCH_SIZE})")
    for replicas, run in runs.items():
        print(f"{replicas} replicas: {run.rate:.1f} rows/s, all running after {run.start_s:.1f} s")
    for size, peaks in memory.items():
        rate = size / peaks["seconds"]
        print(
            f"{size:>9,} requests: {peaks['all']:.0f} MiB in all, {peaks['driver']:.0f} MiB of them the "
            f"driver, {peaks['seconds']:.0f} s ({rate:.0f} rows/s)"
        )
    for name, value in figures.items():
        print(f"{name}: {value:.3f}")
    return figures | {f"memory_mib_{size}": peaks["all"] for size, peaks in memory.items()}
