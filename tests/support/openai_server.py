"""A real HTTP server on a port of its own that speaks as much of the OpenAI protocol as judges and teachers
need."""

from __future__ import annotations

import inspect
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

Answering = Callable[[dict[str, Any], int], Response | Awaitable[Response]]
"""(request body, how many came before it) -> response."""


@dataclass
class Server:
    base_url: str
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)


def completion(
    text: str | None, *, tokens: tuple[int, int] | None = (100, 10), finish: str | None = "stop"
) -> Response:
    usage = (
        {"usage": {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)}}
        if tokens
        else {}
    )
    choice = {"index": 0, "message": {"role": "assistant", "content": text}}
    choice |= {"finish_reason": finish} if finish else {}
    head = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    return JSONResponse(head | usage)


def continuation(text: str, *, tokens: tuple[int, int] = (100, 10), finish: str = "stop") -> Response:
    """Of /v1/completions."""
    usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)}
    choice = {"index": 0, "text": text, "finish_reason": finish, "logprobs": None}
    head = {"id": "c", "object": "text_completion", "created": 1, "model": "m"}
    return JSONResponse(head | {"choices": [choice], "usage": usage})


def refusal(
    status: int, *, retry_after: str = "0", message: str = "no", param: str | None = None
) -> Response:
    error = {"message": message, "param": param}
    return JSONResponse({"error": error}, status, headers={"Retry-After": retry_after})


@contextmanager
def openai_server(answering: Answering) -> Iterator[Server]:
    app = FastAPI()
    listening = socket.create_server(("127.0.0.1", 0))
    seen = Server(f"http://127.0.0.1:{listening.getsockname()[1]}/v1")

    @app.post("/v1/chat/completions")
    @app.post("/v1/completions")
    async def answer(request: Request) -> Response:
        body = await request.json()
        seen.bodies.append(body)
        seen.keys.append(request.headers["authorization"])
        answer = answering(body, len(seen.bodies) - 1)
        return await answer if inspect.isawaitable(answer) else answer

    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        server.should_exit = True
        thread.join(20)
        listening.close()
        assert not thread.is_alive()
