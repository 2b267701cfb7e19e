"""The routes that need a key: who asks is known before the body is read."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from cotray.serving.middleware import Refused
from cotray.serving.service import Service


def admitted_by(service: Service) -> type[APIRoute]:
    """Routes that read the body of a request only after the service admitted it."""

    class Admitted(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def admit_and_handle(request: Request) -> Response:
                service.admit(request)
                return await handle(_Checked(request.scope, request.receive))

            return admit_and_handle

    return Admitted


class _Checked(Request):
    """A request whose JSON holds text that can be written as UTF-8, in an error message too."""

    async def json(self) -> Any:
        parsed = await super().json()
        if b"\\u" in await self.body():  # half a character can only be written as an escape
            try:
                json.dumps(parsed, ensure_ascii=False).encode()
            except UnicodeEncodeError:
                wants = (
                    "a text holds half a character (a lone surrogate, \\ud800 to \\udfff); send both halves"
                )
                raise Refused(422, wants, code="invalid_request") from None
        return parsed
