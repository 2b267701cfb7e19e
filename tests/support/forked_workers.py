"""Workers of any Ray cluster on this machine that are forked from a process which has imported torch.

Ray calls the hook in every driver, also in that of a submitted job, whose environment is that of its node.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

WORKER = "COTRAY_T_WORKER"


@contextmanager
def forked_workers() -> Iterator[str]:
    """For clusters and drivers that are started inside. The server's address, as in its command line."""
    from cotray.pools.fork_server import fork_server, short_starts

    with fork_server() as runtime_env, short_starts(), pytest.MonkeyPatch.context() as patch:
        patch.setenv(WORKER, runtime_env["py_executable"])
        patch.setenv("RAY_RUNTIME_ENV_HOOK", f"{__name__}.{hook.__name__}")
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        yield runtime_env["py_executable"].split()[-1]


def server_of(address: str) -> int:
    """The process that listens at a fork server's socket."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(address)
        credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, _, _ = struct.unpack("3i", credentials)
    return pid


def hook(runtime_env: Mapping[str, Any] | None) -> dict[str, Any]:
    return {"py_executable": os.environ[WORKER], **(runtime_env or {})}
