"""A command with a mark in its environment, and all that it leaves: processes, ports, memory, files."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from local_ray import hears_signals

ROOT = Path(__file__).parents[2]
WAIT_S = 500


@dataclass
class Command:
    """`temporary`: its folder for temporary files, which nothing else uses."""

    process: subprocess.Popen[bytes]
    mark: str
    temporary: Path
    log: IO[str]
    memory: set[Path] = field(default_factory=set)
    """Shared memory that its processes had when `remember` was called."""

    def marked(self) -> list[int]:
        """Processes that have inherited its environment."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                if self.mark.encode() in (entry / "environ").read_bytes() and _state(entry) not in "ZX":
                    found.append(int(entry.name))
        return found

    def titles(self) -> list[str]:
        found = []
        for pid in self.marked():
            with contextlib.suppress(OSError):
                found.append(Path(f"/proc/{pid}/cmdline").read_text(errors="replace"))
        return found

    def sockets(self) -> set[str]:
        """Inodes of the TCP ports that its processes listen on."""
        tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
        lines = [line.split() for table in tables for line in table]
        listening = {f"socket:[{fields[9]}]" for fields in lines if fields[3] == "0A"}
        opened = set[str]()
        for pid in self.marked():
            with contextlib.suppress(OSError):
                opened |= {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()}
        return listening & opened

    def remember(self) -> None:
        """What of /dev/shm its processes have mapped now and is there under a name."""
        mapped = set[str]()
        for pid in self.marked():
            with contextlib.suppress(OSError):
                mapped |= set(re.findall(r"/dev/shm/\S+", Path(f"/proc/{pid}/maps").read_text()))
        self.memory |= {path for path in map(Path, mapped) if path.exists()}

    def text(self) -> str:
        self.log.seek(0)
        return self.log.read()

    def assert_nothing_is_left(self) -> None:
        """After its end; the last processes and files may go a moment later."""
        assert wait_until(lambda: not self.marked()), self.titles()
        assert wait_until(lambda: not list(self.temporary.iterdir())), [*self.temporary.rglob("*")]
        assert not [path for path in self.memory if path.exists()]


@contextlib.contextmanager
def started(command: Sequence[str]) -> Iterator[Command]:
    """`python -m COMMAND` in the project's folder; whatever of it is left is killed in the end."""
    mark, folder = f"ct{uuid.uuid4().hex}", Path(f"/tmp/ct-{uuid.uuid4().hex[:6]}")
    (folder / "own").mkdir(parents=True)
    environment = os.environ | {"COTRAY_TEST_MARK": mark, "TMPDIR": str(folder / "own")}
    # Ray's logs and what torch has compiled are meant to stay.
    environment |= {"RAY_TMPDIR": str(folder), "TORCHINDUCTOR_CACHE_DIR": str(folder / "compiled")}
    environment.pop("RAY_ADDRESS", None)
    with (folder / "log").open("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=log,
            preexec_fn=hears_signals,
        )
        own = Command(process, mark, folder / "own", log)
        try:
            yield own
        except BaseException:
            print(own.text()[-3000:])
            raise
        finally:
            for pid in own.marked():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
            shutil.rmtree(folder, ignore_errors=True)


def wait_until(is_so: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + WAIT_S
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.1)
    return is_so()


def _state(entry: Path) -> str:
    return (entry / "stat").read_text().rpartition(")")[2].split()[0]
