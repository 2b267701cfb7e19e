"""Around every request: an id, limits on its size, a line in the access log, and OpenAI's error shape."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import re
import time
import traceback
import uuid
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException

log = logging.getLogger("cotray.access")
MAX_HEADER_BYTES = 32 << 10
"""Of all headers with the path."""
MAX_MISFITS = 100
"""Of one body, so many are read for the message."""
_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Refused(HTTPException):
    """An error for the client, in OpenAI's shape. An HTTPException, which FastAPI lets through anywhere."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        """`param`: the field that it is about."""
        super().__init__(status, message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.retry_after_s = retry_after_s


def error_body(problem: Refused) -> dict[str, Any]:
    kind = {401: "authentication_error", 429: "rate_limit_error"}.get(
        problem.status, "server_error" if problem.status >= 500 else "invalid_request_error"
    )
    return {"error": {"message": problem.message, "type": kind, "param": problem.param, "code": problem.code}}


def error_response(problem: Refused) -> JSONResponse:
    wait = problem.retry_after_s
    headers = {"Retry-After": str(max(1, math.ceil(wait)))} if wait is not None else {}
    if problem.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error_body(problem), problem.status, headers)


def unforeseen(id: str, problem: Exception) -> Refused:
    """What the client is told of it; the log has the places in the code, and no text of the client."""
    where = traceback.format_tb(problem.__traceback__)
    log.error(json.dumps({"id": id, "error": type(problem).__name__, "traceback": where}))
    return Refused(500, "internal error; the log has it under the request id", code="internal")


def add_errors(app: FastAPI) -> None:
    @app.exception_handler(Refused)
    async def refused(_: Request, problem: Refused) -> JSONResponse:
        return error_response(problem)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, problem: RequestValidationError) -> JSONResponse:
        return error_response(_misfit(problem))

    @app.exception_handler(HTTPException)
    async def http(_: Request, problem: HTTPException) -> JSONResponse:
        response = error_response(Refused(problem.status_code, str(problem.detail), code="http_error"))
        response.headers.update(problem.headers or {})
        return response

    @app.exception_handler(Exception)
    async def internal(request: Request, problem: Exception) -> JSONResponse:
        return error_response(unforeseen(request.state.id, problem))


def _misfit(problem: RequestValidationError) -> Refused:
    """The first field that does not fit the schema, and all that it may be; of a list its first entry."""
    errors = problem.errors()[:MAX_MISFITS]
    first = _field(errors[0], problem.body)
    fields = [_field(error, problem.body) for error in errors]
    where = next((field for field in fields if first and field.startswith(f"{first}.")), first)
    kind, wants = errors[0]["type"], dict[str, None]()
    for field, error in zip(fields, errors, strict=True):
        if field == where:
            wants[error["msg"].removeprefix("Value error, ")] = None
    if kind == "json_invalid":
        message, where = f"the body is no JSON: an error at character {errors[0]['loc'][-1]}", ""
    elif kind == "value_error" and not where:  # between several fields, which its text names
        message = ", or ".join(wants)
    else:
        message = f"{where or 'the body'}: {', or '.join(wants)}"
    return Refused(422, message, code="invalid_request", param=where or None)


def _field(error: Any, body: Any) -> str:
    """Where in the body, without the names that pydantic has for the members of a union."""
    *outer, last = error["loc"]
    parts = list[str]()
    for part in outer[1:] if outer else ():
        with contextlib.suppress(KeyError, IndexError, TypeError):
            body = body[part]
            parts.append(str(part))
    if outer:
        is_there = isinstance(body, dict | list) and (last in body or isinstance(last, int))
        parts += [str(last)] if is_there or error["type"] == "missing" else []
    return ".".join(parts)


class RequestMiddleware:
    """Around every request: an id, limits on its head and body, and a line in the access log."""

    def __init__(self, app: Any, max_body_bytes: int, body_timeout_s: float) -> None:
        self.app, self.max_body_bytes, self.body_timeout_s = app, max_body_bytes, body_timeout_s

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")  # the client's own, or Serve's, which also answers it
        id = given if _ID.fullmatch(given) else uuid.uuid4().hex
        body = _Body(receive, headers, self.max_body_bytes, self.body_timeout_s)

        async def tagged(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                answered = MutableHeaders(scope=message)
                if id != given:
                    answered["x-request-id"] = id
                if not body.is_whole:  # nobody waits for the rest
                    answered["connection"] = "close"
            await send(message)

        with contextlib.ExitStack() as held:
            scope.setdefault("state", {}).update(id=id, held=held)
            try:
                if problem := self._problem(scope, headers):
                    await error_response(problem)(scope, receive, tagged)
                else:
                    await self.app(scope, body.receive, tagged)
            finally:
                line = {"id": id, "method": scope["method"], "path": scope["path"][:256], "status": status}
                log.info(json.dumps(line | {"ms": round(1000 * (time.perf_counter() - began), 1)}))

    def _problem(self, scope: Any, headers: Headers) -> Refused | None:
        """What the head alone is refused for."""
        num_bytes = len(scope["path"]) + len(scope.get("query_string", b""))
        num_bytes += sum(len(name) + len(value) for name, value in headers.raw)
        if num_bytes > MAX_HEADER_BYTES:
            return Refused(431, f"the headers are larger than {MAX_HEADER_BYTES} bytes", code="too_large")
        declared = headers.get("content-length", "0")
        # Digits that no int() is tried on are far above the limit.
        is_large = len(declared) > 19 or (declared.isdecimal() and int(declared) > self.max_body_bytes)
        return _too_large(self.max_body_bytes) if is_large else None


class _Body:
    """The body of a request, which comes within the limits of size and time."""

    def __init__(self, receive: Any, headers: Headers, max_bytes: int, timeout_s: float) -> None:
        self._receive, self.max_bytes, self.timeout_s = receive, max_bytes, timeout_s
        self.deadline, self.num_bytes = time.monotonic() + timeout_s, 0
        self.is_whole = "transfer-encoding" not in headers and headers.get("content-length", "0") == "0"

    async def receive(self) -> Any:
        if self.is_whole:  # what comes now is an empty body or a disconnect, whenever
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), max(0, self.deadline - time.monotonic()))
        except TimeoutError:
            late = f"the body was not here within {self.timeout_s:g} s"
            raise Refused(408, late, code="timeout") from None
        self.num_bytes += len(message.get("body", b""))
        if self.num_bytes > self.max_bytes:
            raise _too_large(self.max_bytes)
        self.is_whole = not message.get("more_body", False)
        return message


def _too_large(max_bytes: int) -> Refused:
    return Refused(413, f"the body is larger than {max_bytes} bytes", code="too_large")
