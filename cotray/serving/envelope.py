"""Around every request: an id, the limit of its size, a line in the access log, and OpenAI's error shape."""

from __future__ import annotations

import json
import logging
import math
import time
import uuid
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

log = logging.getLogger("cotray.access")


class Refused(Exception):
    """An error for the client, in OpenAI's shape."""

    def __init__(self, status: int, message: str, *, code: str, retry_after_s: float | None = None) -> None:
        self.status, self.message, self.code, self.retry_after_s = status, message, code, retry_after_s


def error_body(problem: Refused) -> dict[str, Any]:
    kind = {401: "authentication_error", 429: "rate_limit_error"}.get(
        problem.status, "server_error" if problem.status >= 500 else "invalid_request_error"
    )
    return {"error": {"message": problem.message, "type": kind, "param": None, "code": problem.code}}


def add_errors(app: FastAPI) -> None:
    def respond(problem: Refused) -> JSONResponse:
        wait = problem.retry_after_s
        headers = {"Retry-After": str(max(1, math.ceil(wait)))} if wait is not None else {}
        if problem.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(error_body(problem), problem.status, headers)

    @app.exception_handler(Refused)
    async def refused(_: Request, problem: Refused) -> JSONResponse:
        return respond(problem)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, problem: RequestValidationError) -> JSONResponse:
        first = problem.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        body = error_body(Refused(422, f"{where}: {first['msg']}".removeprefix(": "), code="invalid_request"))
        body["error"]["param"] = where or None
        return JSONResponse(body, 422)

    @app.exception_handler(HTTPException)
    async def http(_: Request, problem: HTTPException) -> JSONResponse:
        response = respond(Refused(problem.status_code, str(problem.detail), code="http_error"))
        response.headers.update(problem.headers or {})
        return response

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, problem: Exception) -> JSONResponse:
        log.error(json.dumps({"id": getattr(request.state, "id", ""), "error": type(problem).__name__}))
        return respond(Refused(500, "internal error; the log has it under the request id", code="internal"))


class Envelope:
    """Around every request: an id, a limit of the body's size, and a line in the access log."""

    def __init__(self, app: Any, max_body_bytes: int) -> None:
        self.app, self.max_body_bytes = app, max_body_bytes

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status, num_bytes = time.perf_counter(), 0, 0
        headers = dict(scope["headers"])
        id = uuid.uuid4().hex
        scope.setdefault("state", {})["id"] = id

        async def limited() -> Any:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self.max_body_bytes:
                raise HTTPException(413, f"the body is larger than {self.max_body_bytes} bytes")
            return message

        async def tagged(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", id.encode())]
            await send(message)

        declared = headers.get(b"content-length", b"0")
        try:
            if declared.isdigit() and int(declared) > self.max_body_bytes:
                problem = Refused(
                    413, f"the body is larger than {self.max_body_bytes} bytes", code="too_large"
                )
                await JSONResponse(error_body(problem), 413)(scope, receive, tagged)
            else:
                await self.app(scope, limited, tagged)
        finally:
            line = {"id": id, "method": scope["method"], "path": scope["path"], "status": status}
            log.info(json.dumps(line | {"ms": round(1000 * (time.perf_counter() - began), 1)}))
