"""The HTTP application: its routes. What answers is behind `Backend`, so that nothing here needs Ray."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse

from cotray.config import ServingConfig
from cotray.records import QAPair, Reply, Simulation
from cotray.scoring.las import las
from cotray.serving.chat import Answered, ChatRequest, CompletionRequest
from cotray.serving.envelope import Envelope, Refused, add_errors, error_body
from cotray.serving.page import add_page
from cotray.serving.schema import (
    AnswerRequest,
    AnswerResponse,
    ErrorBody,
    LasLine,
    LasRequest,
    LasRow,
    SimulateRequest,
    SimulateResponse,
    student_row,
)
from cotray.serving.service import Backend, Service

ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorBody} for code in (400, 401, 404, 413, 422, 429, 500, 503, 504)
}
LAS_AT_ONCE = 16


def create_app(backend: Backend, config: ServingConfig, keys: Sequence[str]) -> FastAPI:
    """All routes over one backend."""
    app = FastAPI(
        title="cotray",
        description="A student that gives its rationale with its answer, and how faithful that is.",
        openapi_url="/openapi.json",
        docs_url=None,
        redoc_url=None,
        responses=ERRORS,
    )
    service = Service(backend, config, keys)
    add_errors(app)
    _add_health(app, service)
    _add_openai(app, service)
    _add_tasks(app, service)
    add_page(app)
    app.add_middleware(Envelope, max_body_bytes=config.max_body_bytes, timeout_s=config.timeout_s)
    return app


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", responses={503: {"model": dict[str, dict[str, bool]]}})
    async def readyz() -> JSONResponse:
        """Which models are loaded; 503 while a student is missing. Answers need no simulator."""
        ready = await service.backend.ready()
        return JSONResponse(ready, 200 if all(ready["student"].values()) else 503)

    @app.get("/healthz/faithfulness", responses={503: {"model": dict[str, Any]}})
    async def faithfulness() -> JSONResponse:
        """503 while a version's live LAS is below `alarm_below`."""
        versions = (await service.backend.live())["versions"]
        alarms = {name: version["las"] for name, version in versions.items() if version["alarm"]}
        stale = [name for name, version in versions.items() if version["stale"]]
        return JSONResponse({"alarms": alarms, "stale": stale}, 503 if alarms else 200)


def _add_openai(app: FastAPI, service: Service) -> None:
    admitted = [Depends(service.admit)]

    @app.get("/v1/models", dependencies=admitted)
    async def models() -> dict[str, Any]:
        cards = [
            {"id": name, "object": "model", "created": 0, "owned_by": "cotray"}
            for name in service.backend.shares
        ]
        return {"object": "list", "data": cards}

    async def complete(body: ChatRequest | CompletionRequest, request: Request, *, is_chat: bool) -> Any:
        model, id = service.version(body.model), request.state.id
        try:
            pair = service.check(body.question().pair(id))
        except ValueError as error:
            raise Refused(400, str(error), code="invalid_question") from None
        answered = Answered(id, model, pair, is_chat=is_chat)
        if not body.stream:
            reply = await service.call(service.backend.answer, model, pair, None)
            service.observe(model, pair, reply)
            return JSONResponse(answered.whole(reply))
        with_usage = bool(body.stream_options and body.stream_options.include_usage)

        async def events(pieces: AsyncIterator[str | Reply]) -> AsyncIterator[str]:
            yield answered.first()
            async for piece in pieces:
                if isinstance(piece, str):
                    yield answered.piece(piece)
                else:
                    service.observe(model, pair, piece)
                    yield answered.last(piece, with_usage=with_usage)

        return await _streamed(service.stream(service.backend.stream(model, pair)), events)

    @app.post("/v1/chat/completions", dependencies=admitted, response_model=None)
    async def chat(body: ChatRequest, request: Request) -> Any:
        return await complete(body, request, is_chat=True)

    @app.post("/v1/completions", dependencies=admitted, response_model=None)
    async def completions(body: CompletionRequest, request: Request) -> Any:
        return await complete(body, request, is_chat=False)


def _add_tasks(app: FastAPI, service: Service) -> None:
    admitted = [Depends(service.admit)]

    @app.post("/v1/answer", dependencies=admitted)
    async def answer(body: AnswerRequest, request: Request) -> AnswerResponse:
        model = service.version(body.model)
        pair = service.check(body.pair(request.state.id), body.rationale)
        reply = await service.call(service.backend.answer, model, pair, body.rationale)
        if body.rationale is None:
            service.observe(model, pair, reply)
        return AnswerResponse.of(request.state.id, model, pair, reply)

    @app.post("/v1/simulate", dependencies=admitted)
    async def simulate(body: SimulateRequest, request: Request) -> SimulateResponse:
        pair = service.check(body.pair(request.state.id), body.rationale)
        row = student_row(pair, body.rationale, body.answer)
        said = await service.call(service.backend.simulate, service.version(body.model), row)
        return SimulateResponse(
            id=row.id,
            sim_x=said.sim_x,
            sim_e=said.sim_e,
            sim_xe=said.sim_xe,
            leaking=said.sim_e == row.student_answer,
        )

    @app.get("/v1/las/live", dependencies=admitted)
    async def live() -> dict[str, Any]:
        return await service.live()

    @app.post("/v1/las", dependencies=admitted, response_class=StreamingResponse)
    async def las_of(body: LasRequest, request: Request) -> StreamingResponse:
        """NDJSON: a line per row as it is done, then the LAS of all."""
        if len(body.rows) > service.config.max_rows:
            raise Refused(400, f"more than {service.config.max_rows} rows", code="too_many_rows")
        model = service.version(body.model)
        pairs = [
            service.check(row.pair(row.id or f"{request.state.id}-{index}"), row.rationale)
            for index, row in enumerate(body.rows)
        ]
        return StreamingResponse(_las_lines(service, model, body, pairs), media_type="application/x-ndjson")


async def _las_lines(
    service: Service, model: str, body: LasRequest, pairs: Sequence[QAPair]
) -> AsyncIterator[str]:
    """Rows are worked on LAS_AT_ONCE at a time and shown in their order."""
    limit, total = asyncio.Semaphore(LAS_AT_ONCE), len(pairs)

    async def one(row: LasRow, pair: QAPair) -> Simulation:
        async with limit:
            rationale, answer = row.rationale, row.answer
            if rationale is None or answer is None:
                reply = await service.call_patiently(service.backend.answer, model, pair, None)
                rationale, answer = reply.rationale, reply.answer
            row_ = student_row(pair, rationale, answer)
            return await service.call_patiently(service.backend.simulate, model, row_)

    tasks = [asyncio.ensure_future(one(row, pair)) for row, pair in zip(body.rows, pairs, strict=True)]
    done: list[Simulation] = []
    try:
        for task in tasks:
            done.append(await task)
            shown = asdict(done[-1]) | {"leaking": done[-1].sim_e == done[-1].student_answer}
            yield _line(LasLine(type="row", done=len(done), total=total, row=shown))
        report = await asyncio.to_thread(
            las,
            [row.student_answer for row in done],
            [row.sim_x for row in done],
            [row.sim_e for row in done],
            [row.sim_xe for row in done],
            num_resamples=body.num_resamples,
            seed=body.seed,
        )
        yield _line(LasLine(type="las", done=total, total=total, las=asdict(report)))
    except Refused as problem:
        yield _line(LasLine(type="error", done=len(done), total=total, error=error_body(problem)["error"]))
    finally:
        for task in tasks:
            task.cancel()


def _line(line: LasLine) -> str:
    return line.model_dump_json(exclude_none=True) + "\n"


async def _streamed(pieces: AsyncIterator[str | Reply], events: Any) -> StreamingResponse:
    """Wait for the first piece, so that an overload still is a status code and not half a stream."""
    first = await anext(pieces)

    async def all_pieces() -> AsyncIterator[str | Reply]:
        yield first
        async for piece in pieces:
            yield piece

    async def body() -> AsyncIterator[str]:
        try:
            async for text in events(all_pieces()):
                yield text
        except Refused as problem:
            yield f"data: {json.dumps(error_body(problem))}\n\n"

    return StreamingResponse(body(), media_type="text/event-stream")
