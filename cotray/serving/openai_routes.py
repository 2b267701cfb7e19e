"""The routes that OpenAI's clients know."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from cotray.records import Reply
from cotray.serving.chat import ChatRequest, CompletionRequest
from cotray.serving.openai_responses import Completion
from cotray.serving.service import Service
from cotray.serving.streams import event_stream


def add_openai(app: APIRouter, service: Service) -> None:
    def card(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": 0, "owned_by": "cotray"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The versions of the student that are served."""
        return {"object": "list", "data": [card(name) for name in service.backend.shares]}

    @app.get("/v1/models/{model}")
    async def model(model: str) -> dict[str, Any]:
        """One of them."""
        return card(service.version(model))

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(body: ChatRequest, request: Request) -> Any:
        """As the `openai` client speaks it, streaming or not. Rationale, answer and the log-probability of
        each choice are also in `choices[].message.cotray`, apart from each other, and what of the text cotray
        `added` because the student named no answer."""
        return await _complete(service, body, request, is_chat=True)

    @app.post("/v1/completions", response_model=None)
    async def completions(body: CompletionRequest, request: Request) -> Any:
        """The same for one plain prompt or several; apart in `choices[].cotray`."""
        return await _complete(service, body, request, is_chat=False)


async def _complete(
    service: Service, body: ChatRequest | CompletionRequest, request: Request, *, is_chat: bool
) -> Any:
    model, id, key = service.version(body.model), request.state.id, request.state.key
    body.check()
    texts = body.texts()
    for text in texts:
        service.check_length(len(text))  # before anything reads it
    pairs = [service.check(question.pair(id)) for question in body.questions(texts)]
    decodings = body.decodings()
    asked = [(pair, decoding) for pair in pairs for decoding in decodings]
    service.access.charge(key, len(asked) - 1)
    completion = Completion(
        id,
        model,
        [pair for pair, _ in asked],
        is_chat=is_chat,
        num_each=len(decodings),
        with_logprobs=decodings[0].num_logprobs is not None,
        with_usage=bool(body.stream_options and body.stream_options.include_usage),
    )

    if not body.stream:
        replies = await service.answers(key, model, asked)
        for index, reply in enumerate(replies):
            service.observe(model, asked[index][0], reply)
        return JSONResponse(completion.whole(replies))

    async def events(pieces: AsyncIterator[tuple[int, str | Reply]]) -> AsyncIterator[str]:
        replies = dict[int, Reply]()
        if is_chat:
            for index in range(len(asked)):
                yield completion.first(index)
        async for index, piece in pieces:
            if isinstance(piece, str):
                yield completion.piece(index, piece)
            else:
                replies[index] = piece
                service.observe(model, asked[index][0], piece)
                yield completion.last(index, piece)
        yield completion.end([replies[index] for index in sorted(replies)])

    return await event_stream(service.stream(key, model, asked), events, id)
