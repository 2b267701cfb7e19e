"""Workers of a local cluster are forked from a process that has imported torch and transformers already.

A worker of cotray spends most of its start on imports: about twelve seconds of a CPU for each replica and
each training process of every stage. Ray lets a job name what is started in place of Python; ours
(fork_client.py) asks this server, which forks. Nothing of Ray, of CUDA or of any thread has begun in the
server; where something has, it refuses, and the worker starts in the usual way.

    python -m cotray.pools.fork_server SOCKET      until standard input is closed
"""

from __future__ import annotations

import array
import contextlib
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

IMPORTS = (
    "pandas",
    "pyarrow.parquet",
    "pydantic",
    "torch",
    "torch.distributed.fsdp",
    "torch.distributed.checkpoint",
    "transformers.modeling_utils",
    "transformers.masking_utils",
    "transformers.generation",
    "transformers.models.llama.modeling_llama",
)
"""What most workers import. Modules that cannot be imported here are left to the workers."""


@contextlib.contextmanager
def fork_server() -> Iterator[dict[str, Any]]:
    """What `ray.init` takes as runtime_env; workers are forked while the block runs."""
    # Ray would start one worker per CPU before anything asks for it.
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    address = f"{tempfile.mkdtemp(prefix='cotray-fork-')}/socket"
    command = [sys.executable, "-m", "cotray.pools.fork_server", address]
    # The threads that NumPy's algebra starts when imported would not be there after a fork.
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen(command, env=environment, start_new_session=True, **pipes)
    client = Path(__file__).with_name("fork_client.py")
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdout.readline()  # it listens; clients wait for its imports
        yield {"py_executable": f"{sys.executable} -S -E {client} {address}"}
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait()


def serve(address: str) -> Callable[[], object] | None:
    """Answers until standard input is closed; in each forked process, returns what that one has to run."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the workers: clients see them end
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(address)
        listener.listen(128)
        print("listening", flush=True)
        for name in IMPORTS:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        while True:
            ready, _, _ = select.select([listener, sys.stdin], [], [])
            if sys.stdin in ready:
                return None
            client, _ = listener.accept()
            if work := _forked(client, listener):
                return work


def _forked(client: socket.socket, listener: socket.socket) -> Callable[[], object] | None:
    """None in the server; in the new process the worker's script."""
    with client:
        try:
            head, ancillary, _, _ = client.recvmsg(8, socket.CMSG_SPACE(3 * 4))
            streams = array.array("i", ancillary[0][2])
            with client.makefile("rb") as file:
                arguments, environment, folder = json.loads(file.read(int.from_bytes(head, "big")))
        except (OSError, ValueError, IndexError):
            return None
        if _other_threads() or os.fork():
            for stream in streams:
                os.close(stream)
            return None
        client.sendall(b"+")
        os.dup(client.fileno())  # open until this process ends, which is what the client waits for
    listener.close()
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = arguments
    if "torch" in sys.modules and (threads := environment.get("OMP_NUM_THREADS", "")).isdigit():
        sys.modules["torch"].set_num_threads(int(threads))  # it reads the variable when it is imported
    return lambda: runpy.run_path(arguments[0], run_name="__main__")


def _other_threads() -> list[str]:
    """Threads that would be missing after a fork. That of pyarrow's allocator starts again by itself."""
    threads = [Path(f"/proc/self/task/{thread}/comm").read_text() for thread in os.listdir("/proc/self/task")]
    return [name for name in threads[1:] if not name.startswith("jemalloc")]


if __name__ == "__main__":
    if worker := serve(sys.argv[1]):
        worker()
    else:  # also where whoever started it was killed
        shutil.rmtree(Path(sys.argv[1]).parent, ignore_errors=True)
