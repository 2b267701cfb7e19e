"""The capacity planner beside real runs of `generate`: a fake teacher, replicas killed at random.

What the planner is told (how long a replica takes to start and to start again, a batch's time, and that of
the end) comes from a calibration run of its own; the compared runs differ from it in replicas, length and
kills.
"""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cotray.planning.fleet import Nodes, simulate
from cotray.planning.plan import quantile
from cotray.planning.work import Work
from cotray.seeds import seeded
from jobs.bench_generate import (
    BATCH_SIZE,
    fake_config,
    local_cluster,
    stage_points,
    write_requests,
)
from jobs.processes import descendants

SECONDS_PER_BATCH = 1.0
NUM_PLANNED = 400
# A batch whose replica died twice is made row by row, each of which takes the fake teacher a batch's time.
MAX_ATTEMPTS = 1000
NUM_CALIBRATED = 12
KILL_AT = (2, 4, 6, 8)
"""Batches finished when the only replica of the second calibration run is killed."""


@dataclass(frozen=True)
class Setting:
    replicas: int
    kills_per_hour: float
    """Of one replica."""
    num_batches: int


SETTINGS = (Setting(1, 0, 40), Setting(2, 120, 80), Setting(4, 240, 160))


@dataclass(frozen=True)
class Measured:
    """Seconds."""

    start_s: float
    """From the stage's start until the first replica begins a batch."""
    restart_s: float
    """From a kill until the replica that comes instead begins a batch."""
    batch_s: float
    end_s: float
    """From the last finished batch to the end of the stage."""


def bench_plan() -> dict[str, Any]:
    """Print the table and return the figures."""
    folder = Path(tempfile.mkdtemp(prefix="cotray-bench-"))
    try:
        with local_cluster():
            # The first stage of a driver and of a cluster takes longer: imports, and processes to start.
            _run(folder / "warm-up", Setting(2, 0, 8))
            measured = _calibrate(folder)
            runs = [_run(folder / f"run-{index}", setting) for index, setting in enumerate(SETTINGS)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    figures: dict[str, Any] = {f"calibrated_{name}": value for name, value in vars(measured).items()}
    print(
        f"calibrated: the first replica after {measured.start_s:.2f} s, again after {measured.restart_s:.2f} "
        f"s, a batch in {measured.batch_s:.3f} s, the end in {measured.end_s:.2f} s"
    )
    header = f"{'replicas':>8}{'kills/h':>9}{'kills':>7}{'measured s':>12}{'planned s':>11}"
    print(f"{header}{'p5 to p95':>16}{'error':>8}")
    for index, (setting, (seconds, num_kills)) in enumerate(zip(SETTINGS, runs, strict=True), start=1):
        planned = planned_seconds(setting, measured)
        middle, low, high = (quantile(planned, share) for share in (0.5, 0.05, 0.95))
        error = abs(middle - seconds) / seconds
        print(
            f"{setting.replicas:>8}{setting.kills_per_hour:>9g}{num_kills:>7}{seconds:>12.1f}{middle:>11.1f}"
            f"{f'{low:.1f} to {high:.1f}':>16}{error:>8.1%}"
        )
        figures |= {
            f"measured_s_{index}": seconds,
            f"planned_s_{index}": middle,
            f"plan_error_{index}": error,
        }
        figures |= {f"kills_{index}": num_kills, f"planned_p5_s_{index}": low, f"planned_p95_s_{index}": high}
    figures["plan_error_max"] = max(figures[f"plan_error_{index + 1}"] for index in range(len(SETTINGS)))
    print(f"plan_error_max: {figures['plan_error_max']:.3f}")
    return figures


def planned_seconds(setting: Setting, measured: Measured) -> list[float]:
    """Of simulated runs: a kill is a lost node, and the replica that comes instead a node that starts."""
    work = Work(
        (1,) * setting.num_batches,
        measured.batch_s,
        setup_s=max(0.0, measured.start_s - measured.restart_s),
        seal_s=measured.end_s,
    )
    nodes = Nodes("spot", start_s=measured.restart_s, interruptions_per_hour=setting.kills_per_hour)
    return [
        simulate(work, nodes, num_replicas=setting.replicas, seed=0, run=run).seconds
        for run in range(NUM_PLANNED)
    ]


def _calibrate(folder: Path) -> Measured:
    """From two short runs with one replica: one that nothing disturbs, one whose replica is killed."""
    generate = _stage(folder / "undisturbed", 1, NUM_CALIBRATED)
    began = time.perf_counter()
    with stage_points() as points:
        generate()
        ended = time.perf_counter()
    first, last = _reached(points, 1), _reached(points, NUM_CALIBRATED)
    batch_s = (last - first) / (NUM_CALIBRATED - 1)
    generate, kills = _stage(folder / "killed", 1, NUM_CALIBRATED), list[float]()
    with stage_points() as points:

        def kill() -> None:
            for num_batches in KILL_AT:
                while not points or points[-1][1] < num_batches * BATCH_SIZE:
                    time.sleep(0.02)
                os.kill(_replicas()[0], signal.SIGKILL)
                kills.append(time.perf_counter())

        thread = threading.Thread(target=kill, daemon=True)
        thread.start()
        generate()
        thread.join()
    again = [_reached(points, num_batches + 1) for num_batches in KILL_AT]
    restart_s = statistics.median(at - killed for killed, at in zip(kills, again, strict=True)) - batch_s
    return Measured(first - batch_s - began, restart_s, batch_s, ended - last)


def _reached(points: list[tuple[float, int, int]], num_batches: int) -> float:
    """When so many batches were finished."""
    return next(at for at, rows, _ in points if rows >= num_batches * BATCH_SIZE)


def _stage(run_dir: Path, replicas: int, num_batches: int) -> Callable[[], object]:
    """What is timed; its requests are written before."""
    from cotray.stages.generate import generate

    config = fake_config(run_dir, replicas, SECONDS_PER_BATCH, max_attempts=MAX_ATTEMPTS)
    write_requests(config, num_batches * BATCH_SIZE)
    return partial(generate, config, label=f"bench: {run_dir.name}")


def _run(run_dir: Path, setting: Setting) -> tuple[float, int]:
    """Seconds that the stage takes, and how often a replica was killed."""
    generate = _stage(run_dir, setting.replicas, setting.num_batches)
    began = time.perf_counter()
    with _kills(setting) as kills:
        generate()
        ended = time.perf_counter()
    return ended - began, len(kills)


@contextmanager
def _kills(setting: Setting) -> Iterator[list[int]]:
    """Inside, each replica that runs is killed at its rate; gives their process ids."""
    rng, stop, killed = seeded(0, "kills", str(setting)), threading.Event(), []

    def kill() -> None:
        rate = setting.replicas * setting.kills_per_hour / 3600
        while rate and not stop.wait(rng.expovariate(rate)):
            # One of so many places; where no replica runs in it, there is nothing to kill.
            place, pids = rng.randrange(setting.replicas), _replicas()
            if place < len(pids):
                with suppress(ProcessLookupError):
                    os.kill(pids[place], signal.SIGKILL)
                    killed.append(pids[place])

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    try:
        yield killed
    finally:
        stop.set()
        thread.join()


def _replicas() -> list[int]:
    return sorted(descendants(lambda title: title.startswith("ray::MapWorker")))
