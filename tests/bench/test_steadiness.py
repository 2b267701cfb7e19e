"""Slopes of what a long run holds, against lines drawn by hand and a real process that holds ever more."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cotray.bench.steadiness import OF_ALL, OF_PROCESSES, Sample, Watch, report, slope

HOLDER = """
import sys
held = []
for line in sys.stdin:
    held.append((bytearray(b"x" * (1 << 20)), open("/dev/null")))
    print(len(held), flush=True)
"""


def test_a_slope_is_that_of_the_line_whatever_single_seconds_say() -> None:
    seconds = list(range(0, 1200))
    values = [100 + 6 * (second // 60) + (5000 if second % 60 == 7 else 0) for second in seconds]
    found = slope(seconds, values)
    assert (found.level, found.per_hour, found.low, found.high) == (100, 360, 360, 360)
    assert not found.is_flat


def test_what_goes_up_and_down_is_flat() -> None:
    seconds = list(range(0, 1200))
    found = slope(seconds, [100 + 6 * (second // 60 % 2) for second in seconds])
    assert found.low <= 0 <= found.high and found.is_flat


def test_a_few_minutes_have_no_slope() -> None:
    found = slope([0, 60, 120], [1, 2, 3])
    assert found.level == 1 and found.per_hour != found.per_hour


def test_the_first_quarter_and_processes_that_come_and_go_are_left_out() -> None:
    """Process 1 grows by one MiB a minute, and by a hundred in the first; 2 is there for a while."""
    watch = Watch(Path("unused"), titles={1: "grows", 2: "goes", 3: "stays"})
    for minute in range(17):
        mib = 100 * minute if minute < 4 else 400 + minute
        processes = {1: (mib, 7, 3), 3: (50.0, 5, 2)} | ({2: (900.0, 90, 90)} if minute == 9 else {})
        watch.samples.append(Sample(60 * minute, processes, (len(processes), 10, 4)))
    slopes = watch.slopes()
    assert (slopes["memory_mib"].level, slopes["memory_mib"].per_hour) == (454, 60)
    assert (slopes["descriptors"].level, slopes["descriptors"].per_hour) == (12, 0)
    assert (slopes["threads"].level, slopes["processes"].level, slopes["files"].level) == (5, 2, 10)
    assert [(title, name, found.per_hour) for title, name, found in watch.growing()] == [
        ("grows", "memory_mib", 60)
    ]


@pytest.fixture
def holder() -> Iterator[subprocess.Popen[str]]:
    """Holds one more MiB and one more open file for every line that it reads."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_process_that_holds_more_every_minute_is_found(
    holder: subprocess.Popen[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert holder.stdin and holder.stdout
    (tmp_path / "logs").mkdir()
    watch = Watch(tmp_path)
    for minute in range(12):
        holder.stdin.write("more\n")
        holder.stdin.flush()
        assert int(holder.stdout.readline()) == minute + 1
        (tmp_path / f"left-{minute}").touch()
        (tmp_path / "logs" / f"worker-{minute}.out").touch()
        watch.sample(60 * minute)
    figures = report("part", watch)
    assert figures["part_descriptors_per_hour"] == pytest.approx(60)
    assert figures["part_files_per_hour"] == pytest.approx(60)
    assert figures["part_memory_mib_per_hour"] == pytest.approx(60, rel=0.2)
    assert {f"part_{name}_per_hour_low" for name in (*OF_PROCESSES, *OF_ALL)} <= figures.keys()
    printed = capsys.readouterr().out
    assert "-c import sys held" in printed and "grows" in printed
