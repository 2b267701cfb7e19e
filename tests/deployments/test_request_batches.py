"""RequestBatches gather while the model is busy; every request gets its own answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from cotray.deployments.request_batches import RequestBatches


class Model:
    """Doubles numbers, when the test lets it; -1 breaks it."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []
        self.began, self.may_end = asyncio.Semaphore(0), asyncio.Semaphore(0)

    async def work(self, numbers: list[int]) -> list[int]:
        self.seen.append(numbers)
        self.began.release()
        await self.may_end.acquire()
        if -1 in numbers:
            raise ValueError("broken")
        return [2 * number for number in numbers]


def run(test: Callable[[Model, RequestBatches[int, int]], Awaitable[None]]) -> list[list[int]]:
    async def main() -> list[list[int]]:
        model = Model()
        batches = RequestBatches(model.work, max_size=3, wait_s=0)
        await test(model, batches)
        batches.running.cancel()
        return model.seen

    return asyncio.run(asyncio.wait_for(main(), 60))


async def ask_one_by_one(batches: RequestBatches[int, int], numbers: list[int]) -> list[asyncio.Task[int]]:
    """The event loop goes round between them, so that none comes together with another."""
    tasks = []
    for number in numbers:
        tasks.append(asyncio.ensure_future(batches.ask(number)))
        for _ in range(5):
            await asyncio.sleep(0)
    return tasks


def test_what_comes_one_by_one_while_the_model_is_busy_goes_through_it_together() -> None:
    async def test(model: Model, batches: RequestBatches[int, int]) -> None:
        first = await ask_one_by_one(batches, [1])
        await model.began.acquire()
        rest = await ask_one_by_one(batches, [2, 3, 4, 5])
        for _ in range(3):
            model.may_end.release()
        assert await asyncio.gather(*first, *rest) == [2, 4, 6, 8, 10]

    assert run(test) == [[1], [2, 3, 4], [5]]


def test_a_failed_batch_fails_its_own_requests_alone() -> None:
    async def test(model: Model, batches: RequestBatches[int, int]) -> None:
        first = await ask_one_by_one(batches, [1])
        await model.began.acquire()
        broken = await ask_one_by_one(batches, [-1, 2, 3])
        after = await ask_one_by_one(batches, [4])
        for _ in range(3):
            model.may_end.release()
        for task in broken:
            with pytest.raises(ValueError, match="broken"):
                await task
        assert [await task for task in (*first, *after)] == [2, 8]

    assert run(test) == [[1], [-1, 2, 3], [4]]


def test_a_request_that_was_given_up_takes_no_place() -> None:
    async def test(model: Model, batches: RequestBatches[int, int]) -> None:
        (first,) = await ask_one_by_one(batches, [1])
        await model.began.acquire()
        gone, *kept = await ask_one_by_one(batches, [2, 3, 4, 5])
        gone.cancel()
        first.cancel()  # its batch is in the model; nobody hears its answer
        for _ in range(2):
            model.may_end.release()
        assert await asyncio.gather(*kept) == [6, 8, 10]

    assert run(test) == [[1], [3, 4, 5]]
