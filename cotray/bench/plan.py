"""The capacity planner beside real runs of `generate`: a fake teacher, replicas killed at random.

What the planner is told (how long a replica takes to start and to start again, a batch's time, and that of
the end) comes from a calibration run of its own; the compared runs differ from it in replicas, length and
kills.
"""

from __future__ import annotations

import itertools
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

from cotray.bench.generate import (
    fake_config,
    local_cluster,
    stage_points,
    write_requests,
)
from cotray.bench.memory import descendants
from cotray.planning.fleet import Nodes, simulate
from cotray.planning.plan import quantile
from cotray.planning.pool_work import Work
from cotray.seeds import seeded

BATCH_SIZE = 16
"""Small, because the time of a batch is to be the teacher's, whatever else this machine does."""
SECONDS_PER_BATCH = 1.5
NUM_PLANNED = 400
# A batch whose replica died twice is made row by row, each of which takes the fake teacher a batch's time.
TEACHER = {"batch_size": BATCH_SIZE, "max_attempts": 1000}
NUM_CALIBRATED = 12
KILL_AT = (2, 4, 6, 8)
"""Batches finished when the only replica of the second calibration run is killed."""


@dataclass(frozen=True)
class Setting:
    replicas: int
    kills_per_hour: float
    """Of one replica."""
    num_batches: int


SETTINGS = (Setting(1, 0, 30), Setting(2, 120, 60), Setting(4, 240, 120))


@dataclass(frozen=True)
class Measured:
    """Seconds."""

    start_s: dict[int, float]
    """From the stage's start until a replica begins, mean over all, by the number of replicas: on few cores
    the processes of several wait for each other."""
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
    return _figures(measured, runs)


def _figures(measured: Measured, runs: list[tuple[float, int]]) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "calibrated_restart_s": measured.restart_s,
        "calibrated_batch_s": measured.batch_s,
        "calibrated_end_s": measured.end_s,
    }
    print(
        f"calibrated: a batch in {measured.batch_s:.3f} s, a replica again after {measured.restart_s:.2f} s, "
        f"the end in {measured.end_s:.2f} s"
    )
    header = ("replicas", "start s", "kills/h", "kills", "measured s", "planned s", "p5", "p95", "error")
    print("".join(f"{name:>12}" for name in header))
    for index, (setting, (seconds, num_kills)) in enumerate(zip(SETTINGS, runs, strict=True), start=1):
        planned, start_s = planned_seconds(setting, measured), measured.start_s[setting.replicas]
        p5, p50, p95 = (quantile(planned, share) for share in (0.05, 0.5, 0.95))
        error = abs(p50 - seconds) / seconds
        row = (setting.replicas, start_s, setting.kills_per_hour, num_kills, seconds, p50, p5, p95)
        print("".join(f"{round(value, 2):>12g}" for value in row) + f"{error:>12.1%}")
        figures |= {
            f"calibrated_start_s_{index}": start_s,
            f"kills_{index}": num_kills,
            f"measured_s_{index}": seconds,
            f"planned_s_{index}": p50,
            f"planned_p5_s_{index}": p5,
            f"planned_p95_s_{index}": p95,
            f"plan_error_{index}": error,
        }
    figures["plan_error_max"] = max(figures[f"plan_error_{index + 1}"] for index in range(len(runs)))
    print(f"plan_error_max: {figures['plan_error_max']:.3f}")
    return figures


def planned_seconds(setting: Setting, measured: Measured) -> list[float]:
    """Of simulated runs: a kill is a lost node, and the replica that comes instead a node that starts."""
    work = Work(
        (1,) * setting.num_batches,
        measured.batch_s,
        setup_s=max(0.0, measured.start_s[setting.replicas] - measured.restart_s),
        seal_s=measured.end_s,
    )
    nodes = Nodes("spot", start_s=measured.restart_s, interruptions_per_hour=setting.kills_per_hour)
    return [
        simulate(work, nodes, num_replicas=setting.replicas, seed=0, run=run).seconds
        for run in range(NUM_PLANNED)
    ]


def _calibrate(folder: Path) -> Measured:
    """From two short runs with one replica, the second of which is killed, and one start of each fleet."""
    generate = _stage(folder / "undisturbed", 1, NUM_CALIBRATED)
    with stage_points() as points:
        generate()
        ended = time.perf_counter()
    finished = [_reached(points, num_batches + 1) for num_batches in range(NUM_CALIBRATED)]
    batch_s = statistics.median(after - before for before, after in itertools.pairwise(finished))
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
    start_s = {setting.replicas: _start_s(folder, setting.replicas) for setting in SETTINGS}
    return Measured(start_s, restart_s, batch_s, ended - finished[-1])


def _start_s(folder: Path, replicas: int) -> float:
    generate = _stage(folder / f"start-{replicas}", replicas, 4 * replicas)
    began = time.perf_counter()
    with stage_points() as points:
        generate()
    starts = [next(at for at, _, starts in points if starts > earlier) for earlier in range(replicas)]
    return statistics.fmean(starts) - began


def _reached(points: list[tuple[float, int, int]], num_batches: int) -> float:
    """When so many batches were finished."""
    return next(at for at, rows, _ in points if rows >= num_batches * BATCH_SIZE)


def _stage(run_dir: Path, replicas: int, num_batches: int) -> Callable[[], object]:
    """What is timed; its requests are written before."""
    from cotray.stages.generate import generate

    config = fake_config(run_dir, replicas, SECONDS_PER_BATCH, **TEACHER)
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
