"""An S3 server that fails on request: moto's, behind throttling, resets in mid-upload and wrong keys.

In this process: `with serve() as server`, then `server.url` and `server.faults`. As a process of its own,
whose first line of output is its URL, for tests with other processes:

    python -m tests.support.s3_server --throttle-share 0.05 --reset-share 0.02 --seed 0
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import make_server

METHODS = ("GET", "HEAD", "PUT", "POST", "DELETE")


@dataclass
class Faults:
    """What goes wrong from now on; tests set these while the server runs."""

    throttle_next: int = 0
    """503 SlowDown for so many requests whose method is one of `throttled_methods`."""
    throttled_methods: tuple[str, ...] = METHODS
    reset_next: int = 0
    """For so many PUTs: half of the body is read, then the connection is reset."""
    cut_next: int = 0
    """For so many GETs: half of the body is sent, then the connection is reset."""
    throttle_share: float = 0.0
    reset_share: float = 0.0
    """The same for a share of the requests (of the PUTs), drawn with `rng`."""
    access_key: str = ""
    """403 InvalidAccessKeyId for requests signed with any other; empty accepts all."""
    in_mid_upload: Callable[[str], None] | None = None
    """Called during every PUT with its path, when half of the body has arrived."""
    rng: random.Random = field(default_factory=lambda: random.Random(0))


class FaultyS3:
    """moto's WSGI application behind `faults`; counts requests by method, failed ones included."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.num_requests: Counter[str] = Counter()
        self._app = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Callable) -> Any:
        with self._lock:
            fault = self._fault(environ)
        if fault == "reset":
            _reset(environ)
        if fault and fault != "cut":
            return _error(environ, start_response, *fault)
        if environ["REQUEST_METHOD"] == "PUT" and self.faults.in_mid_upload:
            half = _read(environ, 0.5)
            self.faults.in_mid_upload(environ["PATH_INFO"])
            environ["wsgi.input"] = io.BytesIO(half + _rest(environ, len(half)))
        answer = self._app(environ, start_response)
        return _cut(environ, answer) if fault == "cut" else answer

    def _fault(self, environ: dict[str, Any]) -> Any:
        """None, "reset", "cut", or the status and code of an error."""
        faults, method = self.faults, environ["REQUEST_METHOD"]
        self.num_requests[method] += 1
        key = re.search(r"Credential=([^/]+)/", environ.get("HTTP_AUTHORIZATION", ""))
        if faults.access_key and (key is None or key[1] != faults.access_key):
            return "403 Forbidden", "InvalidAccessKeyId"
        if method in faults.throttled_methods and faults.throttle_next:
            faults.throttle_next -= 1
            return "503 Slow Down", "SlowDown"
        if method == "PUT" and faults.reset_next:
            faults.reset_next -= 1
            return "reset"
        if method == "GET" and faults.cut_next:
            faults.cut_next -= 1
            return "cut"
        if faults.rng.random() < faults.throttle_share:
            return "503 Slow Down", "SlowDown"
        if method == "PUT" and faults.rng.random() < faults.reset_share:
            return "reset"
        return None


def _read(environ: dict[str, Any], share: float) -> bytes:
    return environ["wsgi.input"].read(int(share * int(environ.get("CONTENT_LENGTH") or 0)))


def _rest(environ: dict[str, Any], num_read: int) -> bytes:
    """Of a body whose end is told, or known by its length; S3 keeps nothing of a client that is gone."""
    if not (length := environ.get("CONTENT_LENGTH")):
        return environ["wsgi.input"].read()
    rest = environ["wsgi.input"].read(int(length) - num_read)
    if num_read + len(rest) < int(length):
        raise ConnectionResetError("the client is gone")
    return rest


def _cut(environ: dict[str, Any], answer: Iterable[bytes]) -> Iterator[bytes]:
    body = b"".join(answer)
    yield body[: len(body) // 2]
    _reset(environ)


def _reset(environ: dict[str, Any]) -> None:
    _read(environ, 0.5)
    # Closed with a linger time of zero, a socket sends RST instead of FIN; the handler closes it.
    linger = struct.pack("ii", 1, 0)
    environ["werkzeug.socket"].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    raise ConnectionResetError("injected")


def _error(environ: dict[str, Any], start_response: Callable, status: str, code: str) -> list[bytes]:
    # A connection closed with unread bytes would be a reset to the client, not this answer.
    _read(environ, 1)
    text = (
        f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>{code}</Message></Error>"
    )
    body = b"" if environ["REQUEST_METHOD"] == "HEAD" else text.encode()
    start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [body]


class QuietHandler(MotoRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        pass

    def connection_dropped(self, error: BaseException, environ: Any = None) -> None:
        # Else it would take the rest of the body for the next request.
        self.close_connection = True


@dataclass(frozen=True)
class Server:
    url: str
    faults: Faults
    num_requests: Counter[str]


@contextlib.contextmanager
def serve(faults: Faults | None = None) -> Iterator[Server]:
    """A server in a thread of this process. Buckets live in the process, not in the server."""
    app = FaultyS3(faults or Faults())
    http = make_server("127.0.0.1", 0, app, threaded=True, request_handler=QuietHandler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield Server(f"http://127.0.0.1:{http.port}", app.faults, app.num_requests)
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.support.s3_server")
    parser.add_argument("--throttle-share", type=float, default=0.0)
    parser.add_argument("--reset-share", type=float, default=0.0)
    parser.add_argument("--access-key", default="")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    faults = Faults(
        throttle_share=arguments.throttle_share,
        reset_share=arguments.reset_share,
        access_key=arguments.access_key,
        rng=random.Random(arguments.seed),
    )
    with serve(faults) as server, contextlib.suppress(KeyboardInterrupt):
        print(server.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
