"""The operating system's processes of one Ray cluster on this machine, and of no other."""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import socket
from collections.abc import Callable, Collection
from pathlib import Path


def find(sessions: Collection[int], names: Collection[str]) -> list[int]:
    """Processes of these sessions (their leaders' ids), and those whose command line has one of `names`."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            # After the name, which may hold spaces: state, parent, group, session.
            state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            command = (entry / "cmdline").read_text(errors="replace")
            is_ours = int(session) in sessions or any(name in command for name in names)
            if is_ours and state not in "ZX":
                found.append(int(entry.name))
    return found


def kill(find_them: Callable[[], list[int]]) -> None:
    """SIGKILL until `find_them` finds none, and return when all are gone."""
    while pids := find_them():
        with contextlib.ExitStack() as stack:
            ends = []
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    ends.append(os.pidfd_open(pid))
                    stack.callback(os.close, ends[-1])
                    os.kill(pid, signal.SIGKILL)
            for end in ends:
                select.select([end], [], [])


def free_ports(count: int) -> list[int]:
    """From between those of Ray's workers and those that the system gives to connections, so that neither
    takes one before it is used."""
    found = list[int]()
    for port in random.SystemRandom().sample(range(20_000, 30_000), 1000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            found.append(port)
        if len(found) == count:
            return found
    raise OSError(f"fewer than {count} ports between 20000 and 30000 are free")
