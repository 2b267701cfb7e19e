"""An S3 server (moto's) that answers after a fixed delay and counts what it is asked for.

    python -m cotray.bench.counting_s3 --delay-s 0.03

prints its URL. `GET /_requests` there is a JSON object: how many requests of each kind came until now.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import make_server

COUNTS_PATH = "/_requests"


class CountingS3:
    """moto's WSGI application behind a delay."""

    def __init__(self, delay_s: float) -> None:
        self.delay_s = delay_s
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._app = DomainDispatcherApplication(create_backend_app)

    def __call__(self, wsgi: dict[str, Any], start_response: Callable) -> Any:
        if wsgi["PATH_INFO"] == COUNTS_PATH:
            with self._lock:
                body = json.dumps(self._counts).encode()
            start_response("200 OK", [("Content-Length", str(len(body)))])
            return [body]
        with self._lock:
            self._counts[_kind(wsgi)] += 1
        time.sleep(self.delay_s)
        return self._app(wsgi, start_response)


def _kind(wsgi: dict[str, Any]) -> str:
    """GET, HEAD, PUT, POST, DELETE or LIST, which S3 bills as a PUT."""
    method = wsgi["REQUEST_METHOD"]
    return "LIST" if method == "GET" and "list-type=" in wsgi["QUERY_STRING"] else method


class _QuietHandler(MotoRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m cotray.bench.counting_s3")
    parser.add_argument("--delay-s", type=float, default=0.0)
    app = CountingS3(parser.parse_args().delay_s)
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_QuietHandler)
    print(f"http://127.0.0.1:{server.port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
