"""Responses that come piece by piece. After status 200 a problem can only be their last line, and is."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import asdict
from typing import TypeVar

from fastapi.responses import StreamingResponse

from cotray.records import QAPair, Simulation
from cotray.scoring.las import las
from cotray.serving.middleware import Refused, error_body, unforeseen
from cotray.serving.schema import LasLine, LasRequest, LasRow, student_row
from cotray.serving.service import ROWS_AT_ONCE, Service

Piece = TypeVar("Piece")


async def las_lines(
    service: Service, key: bytes, id: str, model: str, body: LasRequest, pairs: Sequence[QAPair]
) -> AsyncIterator[str]:
    """A line per row in their order, then the LAS of all."""
    done, total = list[Simulation](), len(pairs)
    try:
        async with aclosing(_simulations(service, key, model, body.rows, pairs)) as rows:
            async for row in rows:
                done.append(row)
                shown = asdict(row) | {"leaking": row.leaks}
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
    except Exception as problem:
        error = error_body(_refused(id, problem))["error"]
        yield _line(LasLine(type="error", done=len(done), total=total, error=error))


async def _simulations(
    service: Service, key: bytes, model: str, rows: Sequence[LasRow], pairs: Sequence[QAPair]
) -> AsyncGenerator[Simulation]:
    """In order. No more are begun than ROWS_AT_ONCE after the last one that was taken."""

    async def one(row: LasRow, pair: QAPair) -> Simulation:
        async with service.row_place(key):
            rationale, answer = row.rationale, row.answer
            if rationale is None or answer is None:
                async with service.answer_places:
                    reply = await service.call_patiently(key, service.backend.answer, model, pair, None)
                rationale, answer = reply.rationale, reply.answer
            asked = student_row(pair, rationale, answer)
            return await service.call_patiently(key, service.backend.simulate, model, asked)

    begun = deque[asyncio.Task[Simulation]]()
    try:
        for row, pair in zip(rows, pairs, strict=True):
            if len(begun) == ROWS_AT_ONCE:
                yield await begun.popleft()
            begun.append(asyncio.ensure_future(one(row, pair)))
        while begun:
            yield await begun.popleft()
    finally:
        for task in begun:
            task.cancel()


async def event_stream(
    pieces: AsyncIterator[Piece], events: Callable[[AsyncIterator[Piece]], AsyncIterator[str]], id: str
) -> StreamingResponse:
    """Wait for the first piece, so that an overload still is a status code and not half a stream."""
    first = await anext(pieces)

    async def all_pieces() -> AsyncIterator[Piece]:
        yield first
        async for piece in pieces:
            yield piece

    async def body() -> AsyncIterator[str]:
        try:
            async for text in events(all_pieces()):
                yield text
        except Exception as problem:
            yield f"data: {json.dumps(error_body(_refused(id, problem)))}\n\n"

    return StreamingResponse(body(), media_type="text/event-stream")


def _refused(id: str, problem: Exception) -> Refused:
    return problem if isinstance(problem, Refused) else unforeseen(id, problem)


def _line(line: LasLine) -> str:
    return line.model_dump_json(exclude_none=True) + "\n"
