"""The models behind the HTTP application, reached through Ray Serve's handles."""

from __future__ import annotations

import asyncio
import contextlib
import copy
from collections.abc import AsyncIterator, Iterator
from typing import Any

from ray import serve
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayError, RayTaskError
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ReplicaState

from cotray.errors import EngineDied, TooLong
from cotray.inference.decoding import GREEDY, Decoding
from cotray.records import QAPair, Reply, Simulation, StudentAnswer
from cotray.serving.cached_figure import CachedFigure
from cotray.serving.service import Unavailable


class RayBackend:
    """`cotray.serving.service.Backend` over Serve's handles: no HTTP between the models."""

    def __init__(
        self,
        shares: dict[str, float],
        students: dict[str, DeploymentHandle],
        simulators: dict[str, DeploymentHandle],
        monitor: DeploymentHandle,
        *,
        max_observed: int,
    ) -> None:
        self.shares, self.students, self.simulators, self.monitor = shares, students, simulators, monitor
        self.max_observed, self.observing = max_observed, set[asyncio.Task]()
        # Anybody may ask for these, and as often as they like.
        self._live, self._ready = CachedFigure(self._ask_live), CachedFigure(self._ask_ready)

    async def answer(
        self, model: str, pair: QAPair, rationale: str | None, decoding: Decoding = GREEDY
    ) -> Reply:
        with _problems():
            return await self.students[model].answer.remote(pair, rationale, decoding)

    async def stream(
        self, model: str, pair: QAPair, decoding: Decoding = GREEDY
    ) -> AsyncIterator[str | Reply]:
        with _problems():
            pieces: Any = self.students[model].options(stream=True).stream.remote(pair, decoding)
            async for piece in pieces:
                yield piece

    async def simulate(self, model: str, row: StudentAnswer) -> Simulation:
        with _problems():
            return await self.simulators[model].simulate.remote(row)

    def observe(self, model: str, row: StudentAnswer) -> None:
        if len(self.observing) < self.max_observed:
            task = asyncio.ensure_future(self._observe(model, row))
            self.observing.add(task)
            task.add_done_callback(self.observing.discard)

    async def _observe(self, model: str, row: StudentAnswer) -> None:
        with contextlib.suppress(RayError, BackPressureError):
            await self.monitor.observe.remote(model, row)

    async def live(self) -> dict[str, Any]:
        return copy.deepcopy(await self._live.get())

    async def _ask_live(self) -> dict[str, Any]:
        with _problems():
            return await self.monitor.live.remote()

    async def ready(self) -> dict[str, dict[str, bool]]:
        return await self._ready.get()

    async def _ask_ready(self) -> dict[str, dict[str, bool]]:
        """Whether a replica runs; also in the middle of an update."""
        status = await asyncio.to_thread(serve.status)
        deployments = status.applications[serve.get_replica_context().app_name].deployments
        running = {name: ReplicaState.RUNNING in d.replica_states for name, d in deployments.items()}
        return {
            kind: {name: running.get(f"{kind}-{name}", False) for name in self.shares}
            for kind in ("student", "simulator")
        }


@contextlib.contextmanager
def _problems() -> Iterator[None]:
    """What can happen to a call, as `Backend` says it."""
    try:
        yield
    except BackPressureError as error:
        raise Unavailable("all models are busy; try again") from error
    except (ActorDiedError, ActorUnavailableError) as error:
        raise Unavailable("the model's replica was lost; try again") from error
    except RayTaskError as error:
        if isinstance(error.cause, EngineDied):
            raise Unavailable("the model's engine was lost; try again") from error
        raise error.cause if isinstance(error.cause, TooLong) else error from None
