"""Does what a long run holds grow with time? Memory, descriptors, threads, processes and files, every second.

Memory, descriptors and threads are those of the processes that live throughout, since the others come and go
with what the run starts and ends. A slope is the median of the slopes between all pairs of minutes (Theil and
Sen), with the interval of Sen 1968, and without the first quarter, in which caches fill.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cotray.bench.memory import descendants

OF_PROCESSES = ("memory_mib", "descriptors", "threads")
OF_ALL = ("processes", "files", "shared_memory_files")
WARM_UP = 0.25
"""Share of the time that is not looked at."""
FEWEST_MINUTES = 4
"""For a slope."""


@dataclass(frozen=True)
class Sample:
    """One moment: of each process its OF_PROCESSES, and OF_ALL."""

    at_s: float
    of_processes: dict[int, tuple[float, int, int]]
    of_all: tuple[int, int, int]


@dataclass(frozen=True)
class Slope:
    """Change per hour with its 95 % interval (NaN where unknown), and the level at the end of the warm-up."""

    level: float
    per_hour: float
    low: float
    high: float

    @property
    def is_flat(self) -> bool:
        """Nothing grows for sure, or by less than a hundredth of the level in an hour."""
        return not (self.low > 0 and self.per_hour >= 0.01 * self.level)


@dataclass
class Watch:
    """Samples of this process's descendants, and of the files in `folder` that are not Ray's logs."""

    folder: Path
    samples: list[Sample] = field(default_factory=list)
    titles: dict[int, str] = field(default_factory=dict)

    def sample(self, at_s: float) -> None:
        pids = descendants(lambda _: True)
        read = {pid: found for pid in pids if (found := _of_process(pid))}
        for pid in read.keys() - self.titles.keys():
            self.titles[pid] = _title(pid)
        num_shared = sum(1 for _ in Path("/dev/shm").iterdir())
        self.samples.append(Sample(at_s, read, (len(read), _num_files(self.folder), num_shared)))

    def slopes(self) -> dict[str, Slope]:
        """Of each of OF_PROCESSES, summed over those that live throughout, and of each of OF_ALL."""
        lived = self._living()
        found = {}
        for place, name in enumerate(OF_PROCESSES):
            values = [sum(one.of_processes[pid][place] for pid in lived) for one in self._warm()]
            found[name] = self._slope(values)
        for place, name in enumerate(OF_ALL):
            found[name] = self._slope([one.of_all[place] for one in self._warm()])
        return found

    def growing(self) -> list[tuple[str, str, Slope]]:
        """(title, one of OF_PROCESSES, slope) of what grows in a process that lives throughout."""
        found = [
            (self.titles[pid], name, self._slope([one.of_processes[pid][place] for one in self._warm()]))
            for place, name in enumerate(OF_PROCESSES)
            for pid in self._living()
        ]
        return [each for each in found if not each[2].is_flat]

    def _warm(self) -> list[Sample]:
        first, last = self.samples[0].at_s, self.samples[-1].at_s
        return [one for one in self.samples if one.at_s >= first + WARM_UP * (last - first)]

    def _living(self) -> list[int]:
        return sorted(set.intersection(*(set(one.of_processes) for one in self._warm())))

    def _slope(self, values: Sequence[float]) -> Slope:
        return slope([one.at_s for one in self._warm()], values)


def slope(at_s: Sequence[float], values: Sequence[float]) -> Slope:
    """Of values at so many seconds, by the medians of their minutes; NaN with fewer than FEWEST_MINUTES."""
    from scipy.stats import theilslopes

    by_minute: dict[int, list[float]] = defaultdict(list)
    for moment, value in zip(at_s, values, strict=True):
        by_minute[int(moment // 60)].append(value)
    medians = [statistics.median(by_minute[minute]) for minute in sorted(by_minute)]
    if len(medians) < FEWEST_MINUTES:
        return Slope(medians[0], *[float("nan")] * 3)
    found: Any = theilslopes(medians, [minute / 60 for minute in sorted(by_minute)], 0.95)
    return Slope(medians[0], float(found.slope), float(found.low_slope), float(found.high_slope))


@contextlib.contextmanager
def watched(folder: Path) -> Iterator[Watch]:
    """Samples every second while the body runs."""
    watch, stop, began = Watch(folder), threading.Event(), time.monotonic()

    def poll() -> None:
        while not stop.wait(1):
            watch.sample(time.monotonic() - began)

    watch.sample(0)
    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        stop.set()
        thread.join()


def report(part: str, watch: Watch) -> dict[str, Any]:
    """Print the table of one part and return its figures."""
    print(f"{part:<10}{'':<22}{'level':>10}{'per hour':>10}{'95 % interval':>22}")
    figures: dict[str, Any] = {}
    for name, found in watch.slopes().items():
        interval = f"{found.low:.2f} to {found.high:.2f}"
        flat = "" if found.is_flat else "  grows"
        print(f"{'':<10}{name:<22}{found.level:>10.1f}{found.per_hour:>10.2f}{interval:>22}{flat}")
        key = f"{part}_{name}"
        figures |= {key: found.level, f"{key}_per_hour": found.per_hour}
        figures |= {f"{key}_per_hour_low": found.low, f"{key}_per_hour_high": found.high}
    for title, name, found in watch.growing():
        print(f"{'':<10}{title}: {name} {found.level:.1f}, {found.per_hour:+.2f} an hour")
    return figures


def _of_process(pid: int) -> tuple[float, int, int] | None:
    """(MiB that it alone has written; descriptors; threads); None of one that has ended."""
    with contextlib.suppress(OSError, KeyError):
        memory, status = (
            dict(line.split(":", 1) for line in Path(f"/proc/{pid}/{name}").read_text().splitlines()[1:])
            for name in ("smaps_rollup", "status")
        )
        mib = int(memory["Private_Dirty"].split()[0]) / 1024
        return mib, len(os.listdir(f"/proc/{pid}/fd")), int(status["Threads"])
    return None


def _title(pid: int) -> str:
    """Its command, without the folders of files."""
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ").split()
        return " ".join(word.rpartition("/")[2] for word in words)[:60]
    return ""


def _num_files(folder: Path) -> int:
    """Ray's logs are left out: it keeps one or more for each process that there ever was."""
    return sum(len(names) for path, _, names in os.walk(folder) if "logs" not in Path(path).parts)
