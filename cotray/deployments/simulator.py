"""The simulator on Ray Serve: concurrent requests go through it in batches."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from cotray.config import RunConfig
from cotray.deployments.request_batches import RequestBatches
from cotray.records import Simulation, StudentAnswer


class SimulatorReplica:
    """One simulator; concurrent requests go through it in batches."""

    def __init__(self, config: RunConfig, trained: str) -> None:
        from cotray.scoring.simulator import Simulator

        mode = config.simulator.mode
        self.simulator = Simulator(trained if mode == "trained" else config.simulator.model, mode=mode)
        self.thread = ThreadPoolExecutor(1, "model")
        options = config.serving.simulator
        self.batches = RequestBatches(
            self._simulate, max_size=options.max_batch_size, wait_s=options.batch_wait_s
        )

    async def simulate(self, row: StudentAnswer) -> Simulation:
        return await self.batches.ask(row)

    async def _simulate(self, rows: list[StudentAnswer]) -> list[Simulation]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.thread, self.simulator.simulate, rows)
