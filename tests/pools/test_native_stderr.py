"""What C++ code writes past Python: known lines are dropped, all else goes on, and in order."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from cotray.config import RayConfig
from cotray.errors import StageError
from cotray.pools.native_stderr import KNOWN
from cotray.pools.ray_cluster import cluster

PROGRAM = f"""
import os, subprocess, sys
from cotray.pools.native_stderr import without_known_lines

print("before", file=sys.stderr)
with without_known_lines():
    os.write(2, b"[core_worker.cc] first\\n" + b"Actor x " + {KNOWN[0]!r} + b". See y\\nsecond\\n")
    subprocess.run([sys.executable, "-c", "import sys; sys.stderr.write('of a child')"])
    print("terminal:", sys.stderr.isatty(), file=sys.stderr)
os.write(2, b"after\\n")
print("end", file=sys.stderr)
"""


def test_known_lines_are_dropped_and_all_others_arrive() -> None:
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    lines = ended.stderr.replace("of a child", "of a child\n").splitlines()
    assert sorted(line for line in lines if line) == sorted(
        ["before", "[core_worker.cc] first", "second", "of a child", "terminal: False", "after", "end"]
    )
    assert lines[0] == "before" and lines[-2:] == ["after", "end"]


def test_a_terminal_is_still_a_terminal_to_python() -> None:
    own, theirs = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stderr=theirs) as process:
        os.close(theirs)
        assert process.wait(60) == 0
    text = os.read(own, 1 << 16).decode()
    os.close(own)
    assert "terminal: True" in text and "constructor" not in text and "second" in text


def test_a_cluster_that_does_not_start_in_time_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def too_late(**_: object) -> None:
        raise Exception("The current node timed out during startup. This could happen because ...")

    monkeypatch.setattr(ray, "init", too_late)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with (
        pytest.raises(StageError, match="other work takes all CPUs") as caught,
        cluster(RayConfig(num_cpus=1)),
    ):
        raise AssertionError("nothing runs without a cluster")
    assert "\n" not in str(caught.value) and "session_latest/logs" in str(caught.value)
