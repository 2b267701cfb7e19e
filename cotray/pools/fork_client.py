"""What Ray starts in place of Python for a worker process of a local cluster.

    python -S -E fork_client.py SOCKET SCRIPT ARGUMENTS

Asks the fork server behind SOCKET for a process that runs SCRIPT with this one's arguments, environment,
folder and open streams, and waits until it has ended. Where no server answers, this process becomes the
worker itself. It imports next to nothing, because its own start is what a worker waits for.

    python fork_client.py SCRIPT ARGUMENTS --serialized-runtime-env-context=JSON --language=PYTHON

How Ray's raylet begins every worker, through a script of its own that imports Ray to read the context: a
second of a CPU each. Where the context names no more than variables and a client of a fork server, it is
read here; with anything else Ray's own script goes on.
"""

import array
import json
import os
import socket
import sys
from typing import NoReturn

CONTEXT, LANGUAGE = "--serialized-runtime-env-context=", "--language="


def main() -> int:
    arguments = sys.argv[1:]
    if not any(argument.startswith(CONTEXT) for argument in arguments):
        return fork(*arguments)
    if client := _set_up(arguments):
        return fork(*client)
    _go_on_with_ray(arguments)


def fork(address: str, *arguments: str) -> int:
    """Exit code of this process, once the worker has ended."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    request = json.dumps([arguments, dict(os.environ), os.getcwd()]).encode()
    try:
        if "LD_PRELOAD" in os.environ:
            raise OSError("a library that is to be loaded before Python cannot be loaded after a fork")
        server.connect(address)
        streams = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))]
        server.sendmsg([len(request).to_bytes(8, "big")], streams)
        server.sendall(request)
        answer = server.recv(1)
    except OSError:
        answer = b""
    if answer != b"+":
        os.execv(sys.executable, [sys.executable, *arguments])
    # The worker holds the other end: it is closed when the worker ends, however it does.
    server.recv(1)
    return 0


def _set_up(arguments: list[str]) -> list[str] | None:
    """Sets the context's variables, and returns the address of the fork server and what the worker runs.

    None, and nothing set, for a context that asks for more.
    """
    options = {}
    for option in (CONTEXT, LANGUAGE):
        values = [argument.removeprefix(option) for argument in arguments if argument.startswith(option)]
        options[option] = values[-1] if values else ""
    try:
        context = json.loads(options[CONTEXT])
        python = context.pop("py_executable").split(" ")
        variables = context.pop("env_vars")
    except (ValueError, KeyError, AttributeError):
        return None
    # Ray replaces ${NAME} in values by its own rules.
    is_known = not any(context.values()) and not any("$" in value for value in variables.values())
    is_client = len(python) == 5 and python[3] == os.path.abspath(__file__)
    if not is_known or not is_client or options[LANGUAGE] != "PYTHON":
        return None
    os.environ.update(variables)
    return [python[4], *(one for one in arguments if not one.startswith((CONTEXT, LANGUAGE)))]


def _go_on_with_ray(arguments: list[str]) -> NoReturn:
    from importlib.util import find_spec

    ray = find_spec("ray")  # found, and not imported
    assert ray is not None and ray.origin is not None
    script = os.path.join(os.path.dirname(ray.origin), "_private", "workers", "setup_worker.py")
    os.execv(sys.executable, [sys.executable, script, *arguments])


if __name__ == "__main__":
    sys.exit(main())
