"""The HTTP application: its routes. What answers is behind `Backend`, so that nothing here needs Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, StreamingResponse

from cotray.config import ServingConfig
from cotray.serving.admission import admitted_by
from cotray.serving.docs_page import add_docs
from cotray.serving.middleware import Refused, RequestMiddleware, add_errors
from cotray.serving.openai_routes import add_openai
from cotray.serving.schema import (
    AnswerRequest,
    AnswerResponse,
    ErrorBody,
    Example,
    Examples,
    LasRequest,
    SimulateRequest,
    SimulateResponse,
    student_row,
)
from cotray.serving.service import Backend, Service
from cotray.serving.streams import las_lines
from cotray.serving.web_page import add_page

ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorBody} for code in (400, 401, 403, 404, 408, 413, 422, 429, 431, 500, 503, 504)
}


def create_app(
    backend: Backend,
    config: ServingConfig,
    keys: Sequence[str],
    examples: Sequence[Example] = (),
    untrained: Mapping[str, str] = MappingProxyType({}),
) -> FastAPI:
    """All routes over one backend, whose students can read the examples. `untrained`: of versions that cannot
    write, what is said about them."""
    app = FastAPI(
        title="cotray",
        description="A student that gives its rationale with its answer, and how faithful that is.",
        openapi_url="/openapi.json",
        docs_url=None,
        redoc_url=None,
        responses=ERRORS,
    )
    service = Service(backend, config, keys)
    keyed = APIRouter(route_class=admitted_by(service))
    add_errors(app)
    _add_health(app, service, untrained)
    add_openai(keyed, service)
    _add_tasks(keyed, service)
    _add_examples(keyed, examples)
    app.include_router(keyed)
    add_page(app)
    add_docs(app)
    if config.cors_origins:
        _allow_origins(app, config.cors_origins)
    app.add_middleware(
        RequestMiddleware, max_body_bytes=config.max_body_bytes, body_timeout_s=config.body_timeout_s
    )
    return app


def _allow_origins(app: FastAPI, origins: Sequence[str]) -> None:
    """Browsers let the pages of these origins ask, with any header that OpenAI's client has, and read the
    headers of ours."""
    app.add_middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=["X-Request-Id", "Retry-After"],
    )


def _add_health(app: FastAPI, service: Service, untrained: Mapping[str, str]) -> None:
    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process is alive."""
        return {"status": "ok"}

    @app.get("/readyz", responses={503: {"model": dict[str, dict[str, bool | str]]}})
    async def readyz() -> JSONResponse:
        """Which models are loaded; 503 while a student is missing. Answers need no simulator. `untrained` is
        there where a version's student cannot write, and says so in a sentence each."""
        ready = await service.backend.ready()
        told = {"untrained": dict(untrained)} if untrained else {}
        return JSONResponse(ready | told, 200 if all(ready["student"].values()) else 503)

    @app.get("/healthz/faithfulness", responses={503: {"model": dict[str, Any]}})
    async def faithfulness() -> JSONResponse:
        """503 while a version's live LAS is below `alarm_below`."""
        versions = (await service.live())["versions"]
        alarms = {name: version["las"] for name, version in versions.items() if version["alarm"]}
        stale = [name for name, version in versions.items() if version["stale"]]
        return JSONResponse({"alarms": alarms, "stale": stale}, 503 if alarms else 200)


def _add_tasks(app: APIRouter, service: Service) -> None:
    @app.post("/v1/answer")
    async def answer(body: AnswerRequest, request: Request) -> AnswerResponse:
        """Rationale, answer and the probability of each choice; after a given rationale, the answer that
        follows from it."""
        model = service.version(body.model)
        pair = service.check(body.pair(request.state.id), body.rationale)
        key, ask = request.state.key, service.backend.answer
        reply = await service.call(key, ask, model, pair, body.rationale)
        if body.rationale is None:
            service.observe(model, pair, reply)
        return AnswerResponse.of(request.state.id, model, pair, reply)

    @app.post("/v1/simulate")
    async def simulate(body: SimulateRequest, request: Request) -> SimulateResponse:
        """What the simulator predicts from the question, from the rationale and from both."""
        pair = service.check(body.pair(request.state.id), body.rationale)
        row = student_row(pair, body.rationale, body.answer)
        key, model = request.state.key, service.version(body.model)
        said = await service.call(key, service.backend.simulate, model, row)
        return SimulateResponse(
            id=row.id,
            sim_x=said.sim_x,
            sim_e=said.sim_e,
            sim_xe=said.sim_xe,
            leaking=said.leaks,
        )

    @app.get("/v1/las/live")
    async def live() -> dict[str, Any]:
        """LAS over a sliding window of live answers, per version of the student."""
        return await service.live()

    @app.post("/v1/las", response_class=StreamingResponse)
    async def las_of(body: LasRequest, request: Request) -> StreamingResponse:
        """LAS of many rows, answered here or elsewhere, as NDJSON: a line per row as it is done, then LAS."""
        if len(body.rows) > service.config.max_rows:
            wants = f"rows: {service.config.max_rows} at most (serving.max_rows)"
            raise Refused(400, wants, code="too_many_rows", param="rows")
        model = service.version(body.model)
        pairs = [
            service.check(row.pair(row.id or f"{request.state.id}-{index}"), row.rationale)
            for index, row in enumerate(body.rows)
        ]
        state = request.state
        state.held.enter_context(service.batches.place(state.key))
        service.access.charge(state.key, len(pairs) - 1)
        lines = las_lines(service, state.key, state.id, model, body, pairs)
        return StreamingResponse(lines, media_type="application/x-ndjson")


def _add_examples(app: APIRouter, examples: Sequence[Example]) -> None:
    given = Examples(examples=list(examples))

    @app.get("/v1/examples")
    async def offered() -> Examples:
        """Test questions of the made-up world, if its students are served, and a rationale for each of their
        answers, to see whether the student's answer turns."""
        return given
