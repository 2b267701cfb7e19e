"""What /proc says of the processes that a benchmark started."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path


def descendants(is_wanted: Callable[[str], bool], of: int | None = None) -> list[int]:
    """Descendants of a process (this one) whose title is wanted."""
    parents, titles = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                titles[int(entry.name)] = (entry / "cmdline").read_text(errors="replace")
    found, queue = [], [of or os.getpid()]
    while queue:
        parent = queue.pop()
        children = [pid for pid, its_parent in parents.items() if its_parent == parent]
        queue += children
        found += [pid for pid in children if is_wanted(titles.get(pid, ""))]
    return found


def pss_mib(pid: int) -> float:
    """Memory of a process, with shared pages divided among those that share them."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0


def rss_mib(pid: int) -> float:
    """Memory of a process, shared pages counted whole: unlike PSS it does not move when others come or go."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


@contextlib.contextmanager
def watched_memory(titles: Mapping[str, str], sizes: dict[str, list[float]]) -> Iterator[None]:
    """Appends to `sizes` the MiB (RSS) of processes whose title starts so: before, then every second."""
    pids = {
        name: descendants(lambda title, start=start: title.startswith(start))
        for name, start in titles.items()
    }
    stop = threading.Event()

    def measure() -> None:
        for name, its_pids in pids.items():
            sizes.setdefault(name, []).append(sum(map(rss_mib, its_pids)))

    def poll() -> None:
        while not stop.wait(1):
            measure()

    measure()
    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def peak_mib() -> float:
    """The most memory that this process has held (`VmHWM`), with mapped files, since `forget_peak`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def forget_peak() -> None:
    """Start the peak anew at what the process holds now; without the right to, it stays that of its life."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
