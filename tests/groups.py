"""python -m tests.groups [--long]: the tests, group by group, and at the end what each group had and took.

Tests marked `long` say a claim of another test once more, and run with --long alone.

Files with a Ray cluster of their own run in a process each: Ray reads settings once per process, and after
one cluster actors of the next in the same process were found dead before they ran. Files that share a cluster
are one group. A group waits for processes half of its time, so that two run at once; each is forked from one
process that has imported torch, as are the fork servers of its clusters. What a group prints is shown when it
has ended.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from cotray.pools.fork_server import RUNNING, fork_server

ROOT = Path(__file__).parents[1]
NUM_AT_ONCE = 2
KILLED = 1
"""The exit code of a group whose process ended before it could say one."""
SHARING = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
"""For threads that wait for each other."""
WITH_DEADLINES = {"test_serve", "test_serve_faults"}
SLOWEST_FIRST = ("test_run_cluster", "test_chaos", "test_stage_train")
"""So that no long group begins when the others end."""


@dataclass(frozen=True)
class Group:
    name: str
    arguments: tuple[str, ...]
    """Of pytest."""


@dataclass(frozen=True)
class Result:
    group: Group
    exit_code: int
    output: str
    seconds: float

    @property
    def is_well(self) -> bool:
        """Also where no test of the group is of the kind that runs."""
        return self.exit_code in (0, pytest.ExitCode.NO_TESTS_COLLECTED)

    @property
    def counts(self) -> str:
        """Pytest's own, such as `12 passed, 1 skipped`."""
        lines = [line for line in self.output.splitlines() if re.search(r" in [\d.]+s", line)]
        return re.sub(r" in .*|=", "", lines[-1]).strip() if lines else "no test ran"


def one_by_one(which: str) -> Iterator[Group]:
    """What has two processes of its own, and what tests what becomes of requests under full load."""
    two = ("--numprocesses", "2", "--dist", "loadfile", "--no-loadscope-reorder")
    yield Group("without Ray and vLLM", ("-m", f"not ray and not vllm and {which}", *two))
    for path in with_ray(which):
        if path.stem in WITH_DEADLINES:
            yield of_file(path, which)


def side_by_side(which: str) -> Iterator[Group]:
    """The groups that leave cores idle, the slowest first."""
    shared = [path for path in with_ray(which) if shares_cluster(path)]
    yield Group("one Ray cluster for several files", ("-m", f"ray and {which}", *map(str, shared)))
    yield Group("vLLM", ("-m", f"vllm and not ray and {which}"))

    def place(path: Path) -> tuple[int, str]:
        is_slow = path.stem in SLOWEST_FIRST
        return (SLOWEST_FIRST.index(path.stem) if is_slow else len(SLOWEST_FIRST)), str(path)

    for path in sorted(with_ray(which), key=place):
        if path.stem not in WITH_DEADLINES and not shares_cluster(path):
            yield of_file(path, which)


def shares_cluster(path: Path) -> bool:
    return "shared_cluster" in path.read_text("utf-8")


def with_ray(which: str) -> list[Path]:
    """The files that have such tests."""

    def has_some(text: str) -> bool:
        some = (
            "mark.long" in text if which == "long" else not re.search(r"(?m)^pytestmark = .*mark.long", text)
        )
        return "mark.ray" in text and bool(some)

    return sorted(p for p in (ROOT / "tests").rglob("test_*.py") if has_some(p.read_text("utf-8")))


def of_file(path: Path, which: str) -> Group:
    return Group(str(path.relative_to(ROOT)), ("-m", f"ray and {which}", str(path)))


def run(group: Group, python: Sequence[str] = (sys.executable,)) -> Result:
    """The group in a process of its own; its output is printed as a whole.

    `python`: what takes a script and its arguments. A process that is forked has no exit code of its own.
    """
    began = time.monotonic()
    with tempfile.NamedTemporaryFile("r") as exit_code:
        script = str(ROOT / "tests/support/pytest_to_file.py")
        command = [*python, script, exit_code.name, *group.arguments, "--durations=5"]
        done = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        said = exit_code.read()
    print(done.stdout, flush=True)
    return Result(group, int(said or KILLED), done.stdout, time.monotonic() - began)


def run_all(groups: Iterable[Group], num_at_once: int) -> list[Result]:
    """Threads of groups that run beside another wait for each other without taking a core."""
    before = dict(os.environ)
    os.environ.update(SHARING)  # torch reads them when it is imported
    with fork_server() as runtime_env, ThreadPoolExecutor(num_at_once) as threads:
        python = runtime_env["py_executable"].split(" ")
        os.environ[RUNNING] = python[-1]
        try:
            return list(threads.map(partial(run, python=python), groups))
        finally:
            os.environ.clear()
            os.environ.update(before)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.groups", description="All tests, group by group.")
    parser.add_argument("--long", action="store_true", help="those marked long, and no others")
    which = "long" if parser.parse_args().long else "not long"
    began = time.monotonic()
    results = [*map(run, one_by_one(which)), *run_all(side_by_side(which), NUM_AT_ONCE)]
    width = max(len(result.group.name) for result in results)
    print(f"{'group':<{width}}  seconds  tests")
    for result in results:
        failed = "" if result.is_well else f"  FAILED (exit code {result.exit_code})"
        print(f"{result.group.name:<{width}}  {result.seconds:7.0f}  {result.counts}{failed}")
    print(f"{'all':<{width}}  {time.monotonic() - began:7.0f}")
    return int(not all(result.is_well for result in results))


if __name__ == "__main__":
    raise SystemExit(main())
