"""Killed before or after any write, rename, delete or upload, the same command ends with the same run folder.

The verbs run in this process (tests/support/disturbed_runs.py), over the real storage code. A kill is an
exception after which nothing of that attempt reaches the storage. Real kills of real processes are in
test_chaos.py. Each seventh point of a local disk and each fifty-third of S3 is tried, unless
COTRAY_CRASH_POINTS_EVERY says otherwise; 1 tries all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
from disturbed_runs import MODULES, NEW, OLD, attempt, config_of, copy, put_stand_ins, state_of
from s3_server import serve

from cotray.storage.run_folder import RunFolder

PRIMITIVES = ("write_file", "delete_file", "delete_folder", "copy_file")


class Killed(BaseException):
    """Not an Exception, so that no code of the verbs handles it."""


class Crash:
    """Counts changes of the storage, and kills at one of them; `at` 0 never does."""

    def __init__(self, at: int = 0) -> None:
        self.at, self.num_points = at, 0

    def point(self) -> None:
        self.num_points += 1
        if self.at and self.num_points >= self.at:
            raise Killed

    def around(self, change: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*arguments: Any, **options: Any) -> Any:
            self.point()
            result = change(*arguments, **options)
            self.point()
            return result

        return changed

    @contextmanager
    def armed(self) -> Iterator[Crash]:
        with pytest.MonkeyPatch.context() as patch:
            for module in MODULES:
                for name in PRIMITIVES:
                    if hasattr(module, name):
                        patch.setattr(module, name, self.around(getattr(module, name)))
            # Between the bytes of a new file and its name.
            patch.setattr(os, "replace", self.around(os.replace))
            yield self


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    put_stand_ins(monkeypatch, tmp_path / "scratch")


def crash_everywhere(root: str, *, overwrite: bool, every: int) -> int:
    """Kill at each `every`-th point; returns the number of points that there are."""
    finished = f"{root}/finished"
    if overwrite:
        attempt(config_of(finished, *OLD), overwrite=False)
    straight = f"{root}/straight"
    if overwrite:
        copy(finished, straight)
    with Crash().armed() as counting:
        attempt(config_of(straight, *NEW), overwrite=overwrite)
    expected = state_of(straight)
    assert len([name for name in expected if name.endswith("manifest.json")]) == 8
    for point in range(1, counting.num_points + 1, every):
        run_dir = f"{root}/killed-{point}"
        if overwrite:
            copy(finished, run_dir)
        with Crash(at=point).armed(), pytest.raises(Killed):
            attempt(config_of(run_dir, *NEW), overwrite=overwrite)
        attempt(config_of(run_dir, *NEW), overwrite=overwrite)
        left = state_of(run_dir)
        assert sorted(without_temporary(left)) == sorted(expected), f"point {point}"
        for name, content in expected.items():
            assert left[name] == content, f"point {point}: {name}"
        RunFolder(run_dir).delete("")
    return counting.num_points


def every(usual: int) -> int:
    """The distance between two points that are tried."""
    return int(os.environ.get("COTRAY_CRASH_POINTS_EVERY", usual))


def without_temporary(state: dict[str, Any]) -> dict[str, Any]:
    """A file whose process was killed before it got its name stays; no reader looks at it."""
    return {name: each for name, each in state.items() if not name.rpartition("/")[2].startswith(".")}


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with serve() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="crash")
        yield "s3://crash/runs"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_killed_at_any_change_of_a_local_disk_ends_as_the_undisturbed_one(
    tmp_path: Path, overwrite: bool
) -> None:
    num_points = crash_everywhere(str(tmp_path / "runs"), overwrite=overwrite, every=every(7))
    print(f"{num_points} points on a local disk, overwrite={overwrite}")
    assert num_points > 100


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_killed_at_any_change_of_s3_ends_as_the_undisturbed_one(s3: str, overwrite: bool) -> None:
    num_points = crash_everywhere(s3, overwrite=overwrite, every=every(53))
    print(f"{num_points} points on S3, overwrite={overwrite}")
    assert num_points > 60
