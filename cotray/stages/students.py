"""What runs on the replicas of a student: one of two engines, behind the same calls."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import AsyncGenerator, AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ray import serve

from cotray.config import RunConfig
from cotray.errors import ConfigError
from cotray.records import QAPair, Reply
from cotray.scoring.reply import Pieces


class StudentReplica:
    """One student; concurrent requests go through it together."""

    def __init__(self, config: RunConfig, model: str) -> None:
        self.engine = _vllm_student(config, model) or BatchedStudent(config, model)

    async def answer(self, pair: QAPair, rationale: str | None) -> Reply:
        """Raises TooLong, EngineDied."""
        async for piece in self._respond(pair, rationale):
            if isinstance(piece, Reply):
                return piece
        raise AssertionError("an engine ended without a reply")

    async def stream(self, pair: QAPair) -> AsyncIterator[str | Reply]:
        """Pieces of the text as they are written, then the Reply; raises TooLong, EngineDied."""
        async for piece in self._respond(pair, None):
            if piece != "":
                yield piece

    def check_health(self) -> None:
        """Called by Serve, which replaces the replica where this raises."""
        self.engine.check_health()

    def _respond(self, pair: QAPair, rationale: str | None) -> AsyncIterator[str | Reply]:
        self.engine.check(pair, rationale)
        return self.engine.respond(pair, rationale)


class BatchedStudent:
    """The transformers engine: a batch of requests begins and ends together."""

    def __init__(self, config: RunConfig, model: str) -> None:
        from cotray.scoring.predict import Student

        tags = config.student.training.tags
        self.student = Student(
            model, config=config.scoring, tags=tags, seed=config.seed, method=config.method
        )
        self.check = self.student.check
        self.thread = ThreadPoolExecutor(1, "model")
        self._batch.set_max_batch_size(config.serving.student.max_batch_size)  # pyright: ignore
        self._batch.set_batch_wait_timeout_s(config.serving.student.batch_wait_s)  # pyright: ignore

    def respond(self, pair: QAPair, rationale: str | None) -> AsyncIterator[str | Reply]:
        return self._batch((pair, rationale))  # pyright: ignore

    def check_health(self) -> None:
        pass

    # With parentheses, because without them Serve refuses generators.
    @serve.batch()  # pyright: ignore[reportCallIssue, reportArgumentType]
    async def _batch(self, asked: list[tuple[QAPair, str | None]]) -> AsyncGenerator[list[str | Reply], None]:
        """For every step of the batch a piece of text per request ("" for none), at the end the Replies."""
        loop, steps = asyncio.get_running_loop(), asyncio.Queue[list[int]]()
        pairs, rationales = [pair for pair, _ in asked], [rationale for _, rationale in asked]
        free = [index for index, rationale in enumerate(rationales) if rationale is None]

        def on_step(tokens: list[int]) -> None:
            loop.call_soon_threadsafe(steps.put_nowait, tokens)

        work = loop.run_in_executor(
            self.thread, lambda: self.student.respond(pairs, rationales, on_step=on_step)
        )
        texts = {index: _Growing(self.student.tokenizer) for index in free}
        while not (work.done() and steps.empty()):
            step = asyncio.ensure_future(steps.get())
            await asyncio.wait([step, work], return_when=asyncio.FIRST_COMPLETED)
            if not step.done():
                step.cancel()
                continue
            new = {index: texts[index].add(token) for index, token in zip(free, step.result(), strict=True)}
            yield [new.get(index, "") for index in range(len(asked))]
        replies: list[str | Reply] = [*work.result()]
        rests = {index: texts[index].pieces.upto(work.result()[index].text) for index in free}
        yield [rests.get(index, "") for index in range(len(asked))]
        yield replies


class _Growing:
    """One text of a batch, token by token."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.ids, self.pieces = tokenizer, list[int](), Pieces()

    def add(self, token: int) -> str:
        self.ids.append(token)
        return self.pieces.upto(self.tokenizer.decode(self.ids, skip_special_tokens=True))


def _vllm_student(config: RunConfig, model: str) -> Any:
    """The student on vLLM, or None where the transformers engine is to be used."""
    engine = config.serving.engine
    is_installed = importlib.util.find_spec("vllm") is not None
    if engine == "transformers" or (engine == "auto" and not is_installed):
        return None
    if not is_installed:
        raise ConfigError("serving.engine: vllm needs `pip install 'cotray[vllm]'` on the replicas")
    from cotray.scoring.vllm_student import VllmStudent, knows

    if not knows(model):
        if engine == "vllm":
            raise ConfigError(f"serving.engine: vLLM does not know the student {model}; use transformers")
        return None
    return VllmStudent(
        model,
        config=config.scoring,
        tags=config.student.training.tags,
        engine_args=config.serving.engine_args,
        max_rows=config.serving.student.max_batch_size,
    )
