"""What Ray starts in place of Python for a worker process of a local cluster.

    python -S -E fork_client.py SOCKET SCRIPT ARGUMENTS

Asks the fork server behind SOCKET for a process that runs SCRIPT with this one's arguments, environment,
folder and open streams, and waits until it has ended. Where no server answers, this process becomes the
worker itself. It imports next to nothing, because its own start is what a worker waits for.
"""

import array
import json
import os
import socket
import sys


def main() -> int:
    address, *arguments = sys.argv[1:]
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


if __name__ == "__main__":
    sys.exit(main())
