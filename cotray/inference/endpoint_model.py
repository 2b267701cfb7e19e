"""Many prompts at once to a model behind an endpoint, from any thread.

What it answered once, in this run or before, is not asked again.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial

from cotray.config.references import hidden
from cotray.errors import ConfigError, CotrayError, DataError, Halted
from cotray.inference.cost_cap import CostCap
from cotray.inference.openai_endpoint import (
    MAX_ATTEMPTS,
    CapReached,
    Endpoint,
    Failed,
    OpenAIEndpoint,
    Prompt,
    Refused,
    Said,
)
from cotray.storage.paid_replies import PaidReplies, PaidReply

MAX_FAILED_IN_A_ROW = 3
"""Prompts given up one after the other, with no answer in between, before the endpoint counts as down: a
single one may be what the server fails on."""


class EndpointModel:
    """Requests are made on an event loop of their own, `concurrency` at a time over all callers."""

    def __init__(
        self, endpoint: Endpoint, purse: CostCap, replies: PaidReplies, *, stage: str, concurrency: int
    ) -> None:
        """`stage`: what the replies are for, such as rationales."""
        self.replies, self.stage = replies, stage
        purse.spent = sum(purse.cost(one.tokens_in, one.tokens_out) for one in replies.all)
        self._endpoint = OpenAIEndpoint(endpoint, purse)
        self._places = asyncio.Semaphore(concurrency)
        self._end: CotrayError | None = None
        """Why nothing is asked any more."""
        self._failed_in_a_row = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="cotray-endpoint", daemon=True)
        self._thread.start()

    def ask(
        self,
        prompts: Sequence[Prompt],
        rows: Sequence[str],
        *,
        on_answered: Callable[[Said], None] | None = None,
    ) -> list[Said]:
        """The replies, in order; one with an `error` where the endpoint refused the prompt, or failed on it.

        `rows` are the ids of the questions. Raises Halted at the cost cap and where the endpoint is down, and
        ConfigError where it refuses the key or the model: after all that is under way has ended.
        """

        async def answer(prompt: Prompt, row: str) -> Said:
            said = await self._answer(prompt, row)
            if on_answered:
                on_answered(said)
            return said

        async def answer_all() -> list[Said | BaseException]:
            asked = (answer(prompt, row) for prompt, row in zip(prompts, rows, strict=True))
            return await asyncio.gather(*asked, return_exceptions=True)

        answers = asyncio.run_coroutine_threadsafe(answer_all(), self._loop).result()
        said: list[Said] = []
        for one in answers:
            if isinstance(one, BaseException):
                raise one
            said.append(one)
        return said

    def close(self) -> None:
        """Nobody may be waiting."""
        asyncio.run_coroutine_threadsafe(self._endpoint.__aexit__(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _answer(self, prompt: Prompt, row: str) -> Said:
        request = prompt.key(self._endpoint.endpoint.model)
        if there := self.replies.answer_to(request):
            return Said(there.text, there.finish, there.tokens_in, there.tokens_out)
        async with self._places:
            if self._end:
                raise self._end
            try:
                said = await self._endpoint.ask(prompt, partial(self._keep, request, row))
            except CapReached:
                raise self._stop(Halted(self._capped())) from None
            except ConfigError as refused:
                raise self._stop(refused) from None
            except DataError as lost:  # what is paid must be kept, or it is paid twice
                raise self._stop(Halted(f"{lost}; {self._done()}")) from None
            except Refused as refused:
                said = Said(error=str(refused))
            except Failed as failed:
                self._failed_in_a_row += 1
                if self._failed_in_a_row >= MAX_FAILED_IN_A_ROW:
                    raise self._stop(Halted(self._down(failed))) from None
                return Said(error=f"failed {MAX_ATTEMPTS} times, the last with: {failed}")
            self._failed_in_a_row = 0
            return said

    async def _keep(self, request: str, row: str, said: Said) -> None:
        await self.replies.add(PaidReply(request, self.stage, row, **asdict(said)))

    def _stop(self, end: CotrayError) -> CotrayError:
        self._end = self._end or end
        self._endpoint.is_stopped = True
        return self._end

    def _capped(self) -> str:
        purse = self._endpoint.purse
        return (
            f"stopped before teacher.endpoint.max_cost={purse.limit:g} could be passed: {self._done()}; the "
            "same command with a higher one goes on"
        )

    def _down(self, failed: Failed) -> str:
        url = hidden(self._endpoint.endpoint.base_url)
        return (
            f"{url}: {MAX_FAILED_IN_A_ROW} requests one after the other failed "
            f"{MAX_ATTEMPTS} times each, the last with: {failed}; {self._done()}; the same command goes on"
        )

    def _done(self) -> str:
        purse = self._endpoint.purse
        num_answered = sum(not reply.error for reply in self.replies.all)
        cost = f", for {purse.spent:.4g} in all" if purse.price_in or purse.price_out else ""
        return f"{num_answered:,} requests of this run are answered{cost}, and are not asked again"
