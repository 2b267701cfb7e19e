"""What runs on the replicas of a student: one of two engines, behind the same calls."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from cotray.config import RunConfig
from cotray.deployments.request_batches import RequestBatches
from cotray.errors import ConfigError
from cotray.inference.decoding import GREEDY, Decoding
from cotray.inference.student_reply import Pieces
from cotray.prompts.student import trained_prompt
from cotray.records import QAPair, Reply


class StudentReplica:
    """One student; concurrent requests go through it together."""

    def __init__(self, config: RunConfig, model: str) -> None:
        self.engine = _vllm_student(config, model) or BatchedStudent(config, model)

    async def answer(self, pair: QAPair, rationale: str | None, decoding: Decoding = GREEDY) -> Reply:
        """Raises TooLong, EngineDied."""
        self.engine.check(pair, rationale)
        return await self.engine.answer(pair, rationale, decoding)

    async def stream(self, pair: QAPair, decoding: Decoding = GREEDY) -> AsyncIterator[str | Reply]:
        """Pieces of the text as they are written, then the Reply; raises TooLong, EngineDied."""
        self.engine.check(pair, None)
        pieces = asyncio.Queue[str | None]()
        reply = asyncio.ensure_future(self.engine.answer(pair, None, decoding, pieces.put_nowait))
        reply.add_done_callback(lambda _: pieces.put_nowait(None))
        try:
            while (piece := await pieces.get()) is not None:
                if piece:
                    yield piece
            yield await reply
        finally:
            reply.cancel()

    def check_health(self) -> None:
        """Called by Serve, which replaces the replica where this raises."""
        self.engine.check_health()


@dataclass(frozen=True)
class _Asked:
    pair: QAPair
    rationale: str | None
    decoding: Decoding
    show: Callable[[str], None] | None


class BatchedStudent:
    """The transformers engine: a batch of requests begins and ends together."""

    def __init__(self, config: RunConfig, model: str) -> None:
        from cotray.scoring.student import Student

        prompt = trained_prompt(config.student.training.tags)
        self.student = Student(
            model, config=config.scoring, prompt=prompt, seed=config.seed, method=config.method
        )
        self.check = self.student.check
        self.thread = ThreadPoolExecutor(1, "model")
        options = config.serving.student
        self.batches = RequestBatches(
            self._respond, max_size=options.max_batch_size, wait_s=options.batch_wait_s
        )

    async def answer(
        self,
        pair: QAPair,
        rationale: str | None,
        decoding: Decoding = GREEDY,
        show: Callable[[str], None] | None = None,
    ) -> Reply:
        """`show` hears the text piece by piece, while it is written."""
        return await self.batches.ask(_Asked(pair, rationale, decoding, show))

    def check_health(self) -> None:
        pass

    async def _respond(self, asked: list[_Asked]) -> list[Reply]:
        loop = asyncio.get_running_loop()
        pairs, rationales = [one.pair for one in asked], [one.rationale for one in asked]
        free = [index for index, rationale in enumerate(rationales) if rationale is None]
        decodings = [one.decoding for one in asked]
        texts = {
            index: _Text(self.student.tokenizer, decodings[index], show)
            for index in free
            if (show := asked[index].show)
        }

        def on_step(tokens: list[int]) -> None:
            for index, token in zip(free, tokens, strict=True):
                if index in texts:
                    loop.call_soon_threadsafe(texts[index].add, token)

        heard = on_step if texts else None
        replies = await loop.run_in_executor(
            self.thread, lambda: self.student.respond(pairs, rationales, decodings, on_step=heard)
        )
        for index, text in texts.items():
            text.show(text.pieces.rest(replies[index].text))
        return replies


class _Text:
    """One text of a batch, token by token."""

    def __init__(self, tokenizer: Any, decoding: Decoding, show: Callable[[str], None]) -> None:
        self.tokenizer, self.show = tokenizer, show
        self.ids, self.pieces = list[int](), Pieces(decoding)

    def add(self, token: int) -> None:
        self.ids.append(token)
        self.show(self.pieces.upto(self.tokenizer.decode(self.ids, skip_special_tokens=True)))


def _vllm_student(config: RunConfig, model: str) -> Any:
    """The student on vLLM, or None where the transformers engine is to be used."""
    engine = config.serving.engine
    is_installed = importlib.util.find_spec("vllm") is not None
    if engine == "transformers" or (engine == "auto" and not is_installed):
        return None
    if not is_installed:
        raise ConfigError("serving.engine: vllm needs `pip install 'cotray[vllm]'` on the replicas")
    from cotray.inference.vllm_student import VllmStudent, knows

    if not knows(model):
        if engine == "vllm":
            raise ConfigError(f"serving.engine: vLLM does not know the student {model}; use transformers")
        return None
    return VllmStudent(
        model,
        config=config.scoring,
        prompt=trained_prompt(config.student.training.tags),
        seed=config.seed,
        engine_args=config.serving.engine_args,
        max_rows=config.serving.student.max_batch_size,
    )
