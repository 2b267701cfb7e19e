"""Workers of any Ray cluster on this machine that are forked from a process which has imported torch.

Ray calls the hook in every driver, also in that of a submitted job, whose environment is that of its node.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

WORKER = "COTRAY_T_WORKER"


@contextmanager
def forked_workers() -> Iterator[str]:
    """For clusters and drivers that are started inside. The server's address, as in its command line."""
    from cotray.pools.fork_server import fork_server

    with fork_server() as runtime_env, pytest.MonkeyPatch.context() as patch:
        patch.setenv(WORKER, runtime_env["py_executable"])
        patch.setenv("RAY_RUNTIME_ENV_HOOK", f"{__name__}.{hook.__name__}")
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        yield runtime_env["py_executable"].split()[-1]


def hook(runtime_env: Mapping[str, Any] | None) -> dict[str, Any]:
    return {"py_executable": os.environ[WORKER], **(runtime_env or {})}
