"""Around every request: an id, the limit of its size, a line in the access log, and OpenAI's error shape."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
import uuid
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException

log = logging.getLogger("cotray.access")


class Refused(HTTPException):
    """An error for the client, in OpenAI's shape. An HTTPException, which FastAPI lets through anywhere."""

    def __init__(self, status: int, message: str, *, code: str, retry_after_s: float | None = None) -> None:
        super().__init__(status, message)
        self.status, self.message, self.code, self.retry_after_s = status, message, code, retry_after_s


def error_body(problem: Refused) -> dict[str, Any]:
    kind = {401: "authentication_error", 429: "rate_limit_error"}.get(
        problem.status, "server_error" if problem.status >= 500 else "invalid_request_error"
    )
    return {"error": {"message": problem.message, "type": kind, "param": None, "code": problem.code}}


def error_response(problem: Refused) -> JSONResponse:
    wait = problem.retry_after_s
    headers = {"Retry-After": str(max(1, math.ceil(wait)))} if wait is not None else {}
    if problem.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error_body(problem), problem.status, headers)


def add_errors(app: FastAPI) -> None:
    @app.exception_handler(Refused)
    async def refused(_: Request, problem: Refused) -> JSONResponse:
        return error_response(problem)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, problem: RequestValidationError) -> JSONResponse:
        first = problem.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        body = error_body(Refused(422, f"{where}: {first['msg']}".removeprefix(": "), code="invalid_request"))
        body["error"]["param"] = where or None
        return JSONResponse(body, 422)

    @app.exception_handler(HTTPException)
    async def http(_: Request, problem: HTTPException) -> JSONResponse:
        response = error_response(Refused(problem.status_code, str(problem.detail), code="http_error"))
        response.headers.update(problem.headers or {})
        return response

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, problem: Exception) -> JSONResponse:
        log.error(json.dumps({"id": getattr(request.state, "id", ""), "error": type(problem).__name__}))
        return error_response(
            Refused(500, "internal error; the log has it under the request id", code="internal")
        )


class Envelope:
    """Around every request: an id, limits on its body, and a line in the access log."""

    def __init__(self, app: Any, max_body_bytes: int, timeout_s: float) -> None:
        self.app, self.max_body_bytes, self.timeout_s = app, max_body_bytes, timeout_s

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")[:128]  # the client's own, or Serve's, which also answers it
        id = given or uuid.uuid4().hex
        scope.setdefault("state", {})["id"] = id

        async def tagged(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if not given:
                    MutableHeaders(scope=message)["x-request-id"] = id
            await send(message)

        try:
            declared = headers.get("content-length", "0")
            if declared.isdigit() and int(declared) > self.max_body_bytes:
                await error_response(self._too_large())(scope, receive, tagged)
            else:
                await self.app(scope, self._limited(receive), tagged)
        finally:
            line = {"id": id, "method": scope["method"], "path": scope["path"], "status": status}
            log.info(json.dumps(line | {"ms": round(1000 * (time.perf_counter() - began), 1)}))

    def _limited(self, receive: Any) -> Any:
        """`receive`, but the body comes within the limits of size and time."""
        num_bytes, is_whole = 0, False
        deadline = time.monotonic() + self.timeout_s

        async def limited() -> Any:
            nonlocal num_bytes, is_whole
            if is_whole:  # what comes now is a disconnect, whenever
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0, deadline - time.monotonic()))
            except TimeoutError:
                late = f"the body was not here within {self.timeout_s:g} s"
                raise Refused(408, late, code="timeout") from None
            num_bytes += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            if num_bytes > self.max_body_bytes:
                raise self._too_large()
            return message

        return limited

    def _too_large(self) -> Refused:
        return Refused(413, f"the body is larger than {self.max_body_bytes} bytes", code="too_large")
