"""Workers of a local cluster are forked from a process that has imported torch and transformers already.

A worker of cotray spends most of its start on imports: about twelve seconds of a CPU for each replica and
each training process of every stage. Ray lets a job name what is started in place of Python; ours
(fork_client.py) asks this server, which forks. Nothing of Ray, of CUDA or of any thread has begun in the
server; where something has, it refuses, and the worker starts in the usual way.

The server outlives its driver, however that ends: it gives the workers that are left a moment, kills them,
and deletes the folder that holds its socket and the temporary files of all workers.

    python -m cotray.pools.fork_server SOCKET MODULE ...      until standard input is closed
"""

from __future__ import annotations

import array
import atexit
import contextlib
import gc
import getpass
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
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

IMPORTS = (
    # What Ray itself imports first of all in a worker: half a second.
    "google.protobuf.json_format",
    "google.protobuf.timestamp_pb2",
    "jsonschema",
    "msgpack",
    "pdb",
    "requests",
    "uvloop",
    # What Ray Data and Ray Train do.
    "click",
    "fsspec",
    "pandas",
    "pyarrow.dataset",
    "pyarrow.parquet",
    "pydantic",
    "starlette.requests",
    "torch",
    "torch.distributed.fsdp",
    "torch.distributed.checkpoint",
    "transformers.modeling_utils",
    "transformers.masking_utils",
    "transformers.generation",
    "transformers.models.llama.modeling_llama",
    "cotray.pools.pool",
    "cotray.pools.train_workers",
    "cotray.scoring.student",
    "cotray.training.loop",
)
"""What most workers import, but not Ray, whose connections do not work in a process that was forked after
it was imported. Modules that cannot be imported here are left to the workers."""


CLIENT = Path(__file__).with_name("fork_client.py").resolve()
RUNNING = "COTRAY_FORK_SERVER"
"""Names the variable with the socket of a server that runs already: new ones are forked from it, and have
their imports at once."""
SCRATCH = "tmp"
"""Beside the socket: where workers put temporary files."""
GRACE_S = 5.0
"""For workers to end by themselves once the driver is gone; some never do."""


@contextlib.contextmanager
def fork_server(imports: Sequence[str] = IMPORTS) -> Iterator[dict[str, Any]]:
    """What `ray.init` takes as runtime_env; workers are forked while the block runs."""
    # Ray would start one worker per CPU before anything asks for it.
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    folder = Path(tempfile.mkdtemp(prefix="cotray-fork-"))
    address, scratch = str(folder / "socket"), folder / SCRATCH
    scratch.mkdir()
    command = [sys.executable, "-m", "cotray.pools.fork_server", address, *imports]
    if running := os.environ.get(RUNNING):
        command = [sys.executable, "-S", "-E", str(CLIENT), running, __file__, address, *imports]
    # The threads that NumPy's algebra starts when imported would not be there after a fork.
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    # What torch has compiled is of use to later runs.
    compiled = f"{tempfile.gettempdir()}/torchinductor_{getpass.getuser()}"
    variables = {"TMPDIR": str(scratch)}
    variables["TORCHINDUCTOR_CACHE_DIR"] = os.environ.get("TORCHINDUCTOR_CACHE_DIR", compiled)
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen(command, env=environment, start_new_session=True, **pipes)
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdout.readline()  # it listens; clients wait for its imports
        executable = f"{sys.executable} -S -E {CLIENT} {address}"
        yield {"py_executable": executable, "env_vars": variables}
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def short_starts() -> Iterator[None]:
    """Workers of the node that is started inside reach a fork server without importing Ray on the way.

    By a constant of Ray's that is no part of its interface; a version without it starts its workers as ever.
    """
    from ray._private import ray_constants

    name = "SETUP_WORKER_FILENAME"
    before = getattr(ray_constants, name, None)
    if before is None:
        yield
        return
    setattr(ray_constants, name, str(CLIENT))  # joined to a folder, an absolute path stays itself
    try:
        yield
    finally:
        setattr(ray_constants, name, before)


def serve(address: str, imports: Sequence[str]) -> Callable[[], object] | None:
    """Answers until standard input is closed and no worker is left; in each forked process, returns what that
    one has to run."""
    workers: dict[int, int] = {}  # by what tells that one has ended
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the workers: clients see them end
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(address)
        listener.listen(128)
        print("listening", flush=True)
        for name in imports:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        # A collection in a worker would write to every object of the server, and so copy their pages.
        gc.collect()
        gc.freeze()
        while True:
            ready, _, _ = select.select([listener, sys.stdin, *workers], [], [])
            _forget(workers, ready)
            if sys.stdin in ready:
                _end(workers)
                return None
            if listener in ready:
                client, _ = listener.accept()
                if work := _forked(client, listener, workers):
                    return work


def _forget(workers: dict[int, int], ended: Collection[object]) -> None:
    for end in [end for end in workers if end in ended]:
        os.close(end)
        del workers[end]


def _end(workers: dict[int, int]) -> None:
    """Wait for all, then kill those that are left with what they have started."""
    deadline = time.monotonic() + GRACE_S
    while workers:
        ready, _, _ = select.select(list(workers), [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            break
        _forget(workers, ready)
    for worker in workers.values():  # alive, so that the number is theirs, and that of a group of their own
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker, signal.SIGKILL)
    while workers:
        _forget(workers, select.select(list(workers), [], [])[0])


def _forked(
    client: socket.socket, listener: socket.socket, workers: dict[int, int]
) -> Callable[[], object] | None:
    """None in the server, which notes the worker; in the new process the worker's script."""
    with client:
        try:
            head, ancillary, _, _ = client.recvmsg(8, socket.CMSG_SPACE(3 * 4))
            streams = array.array("i", ancillary[0][2])
            with client.makefile("rb") as file:
                arguments, environment, folder = json.loads(file.read(int.from_bytes(head, "big")))
        except (OSError, ValueError, IndexError):
            return None
        worker = None if _other_threads() else os.fork()
        if worker != 0:
            if worker:
                with contextlib.suppress(ProcessLookupError):  # it has ended already
                    workers[os.pidfd_open(worker)] = worker
            for stream in streams:
                os.close(stream)
            return None
        client.sendall(b"+")
        os.dup(client.fileno())  # open until this process ends, which is what the client waits for
    listener.close()
    for end in workers:
        os.close(end)
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # asked for by what was imported, under the server's own environment
    os.chdir(folder)
    sys.argv = arguments
    # As a new Python reads it, behind the folder of the script.
    own = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[1:1] = [path for path in own if path not in sys.path]
    if "torch" in sys.modules:
        _count_threads()
        if Path(arguments[0]).name == "default_worker.py":
            _count_threads_when_ray_does()
    atexit.register(_leave)  # the last of them to be called
    return lambda: runpy.run_path(arguments[0], run_name="__main__")


def _count_threads() -> None:
    """torch reads the variable when it is imported, which was before it was set for this process."""
    if (threads := os.environ.get("OMP_NUM_THREADS", "")).isdigit():
        sys.modules["torch"].set_num_threads(int(threads))


def _count_threads_when_ray_does() -> None:
    """Ray sets the variable when it gives a worker its CPUs, by a function that is not a public one."""
    from ray._private import utils

    count: Any = getattr(utils, "set_omp_num_threads_if_unset", None)

    def counted() -> bool:
        is_set = count()
        if is_set:
            _count_threads()
        return is_set

    if count is not None:
        utils.set_omp_num_threads_if_unset = counted


def _leave() -> None:
    """Ends a process without taking its modules apart: in a worker that would copy the pages of all their
    objects, and some libraries complain about objects that are frozen."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _other_threads() -> list[str]:
    """Threads that would be missing after a fork. That of pyarrow's allocator starts again by itself."""
    threads = [Path(f"/proc/self/task/{thread}/comm").read_text() for thread in os.listdir("/proc/self/task")]
    return [name for name in threads[1:] if not name.startswith("jemalloc")]


if __name__ == "__main__":
    if worker := serve(sys.argv[1], sys.argv[2:]):
        worker()
    else:  # also where whoever started it was killed
        shutil.rmtree(Path(sys.argv[1]).parent, ignore_errors=True)
        _leave()
