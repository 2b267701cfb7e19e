"""A server that speaks as much of the Hugging Face hub's protocol as an upload needs, on this machine."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

TOKEN = "hf_of_the_test"


@dataclass
class Hub:
    """What was sent to it."""

    url: str = ""
    repos: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    """By path, which begins with `datasets/you/name/` or `models/you/name/`."""
    large: dict[str, bytes] = field(default_factory=dict)
    """Weights by their SHA-256: they are sent before the commit, which only names them."""
    requests: list[str] = field(default_factory=list)

    def answer(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """What a request of somebody with the token gets."""
        if path == "/api/repos/create":
            self.repos.append(json.loads(body))
            name = f"{self.repos[-1].get('organization', 'you')}/{self.repos[-1]['name']}"
            return 200, {"url": f"{self.url}/{name}", "name": name}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                {**wanted, "actions": {"upload": {"href": f"{self.url}/large/{wanted['oid']}"}}}
                for wanted in json.loads(body)["objects"]
            ]
            return 200, {"transfer": "basic", "objects": objects}
        _, kind, owner, name, what, _ = path.lstrip("/").split("/")
        if what == "preupload":
            return 200, {"files": [_mode(file["path"]) for file in json.loads(body)["files"]]}
        assert what == "commit"
        for entry in map(json.loads, body.decode().splitlines()):
            value = entry["value"]
            if entry["key"] == "file":
                self.files[f"{kind}/{owner}/{name}/{value['path']}"] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                self.files[f"{kind}/{owner}/{name}/{value['path']}"] = self.large[value["oid"]]
        return 200, {"commitUrl": f"{self.url}/{owner}/{name}/commit/abc", "commitOid": "abc"}


def _mode(path: str) -> dict[str, Any]:
    mode = "lfs" if path.endswith(".safetensors") else "regular"
    return {"path": path, "uploadMode": mode, "shouldIgnore": False}


@contextmanager
def hub() -> Iterator[Hub]:
    state = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(state))
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(state: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.requests.append(f"GET {self.path}")
            self._send(404, {"error": "not found"})

        def do_POST(self) -> None:
            state.requests.append(f"POST {self.path}")
            body = self._body()
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self._send(401, {"error": "Invalid username or password."})
            return self._send(*state.answer(self.path, body))

        def do_PUT(self) -> None:
            state.requests.append(f"PUT {self.path}")
            body = self._body()
            assert self.path == f"/large/{hashlib.sha256(body).hexdigest()}"
            state.large[self.path.rpartition("/")[2]] = body
            self._send(200, {})

        def _body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def _send(self, status: int, content: dict[str, Any]) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler
