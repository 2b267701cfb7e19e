"""Online LAS on Ray Serve: live answers are simulated, kept in windows, and their figures exported."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle
from ray.util import metrics

from cotray.config import RunConfig
from cotray.errors import DataError
from cotray.records import StudentAnswer
from cotray.serving.las_window import Window, Windows
from cotray.storage.run_folder import RunFolder

PUBLISH_S = 5
"""Between two exports of online LAS, and two copies of its windows on disk."""


class LasMonitor:
    """Simulates live answers after the fact, keeps a window per version, and exports them."""

    def __init__(
        self, config: RunConfig, folders: dict[str, str], simulators: dict[str, DeploymentHandle]
    ) -> None:
        """Of every version its run folder, where the window is kept, and its simulator."""
        serving = config.serving
        self.folders = {name: RunFolder(folder) for name, folder in folders.items()}
        self.simulators, self.timeout_s = simulators, serving.timeout_s
        self.windows = Windows(tuple(folders), size=serving.live_window, alarm_below=serving.alarm_below)
        self.saved: dict[str, int] = {}
        for name, folder in self.folders.items():
            with contextlib.suppress(DataError):  # there is none yet
                data = folder.read_bytes(_window_file(name))
                self.windows.windows[name] = Window.load(serving.live_window, data)
        self.gauges = _gauges()
        self.publishing = asyncio.get_running_loop().create_task(self._publish())

    def __del__(self) -> None:
        """Serve calls it when the replica is to go."""
        for name in self.folders:
            self._save(name)

    async def observe(self, version: str, row: StudentAnswer) -> None:
        try:
            # Without a replica, a call waits for one.
            async with asyncio.timeout(self.timeout_s):
                self.windows.add(version, await self.simulators[version].simulate.remote(row))
        except (RayError, BackPressureError, TimeoutError):
            self.windows.missed(version)

    async def live(self) -> dict[str, Any]:
        return self.windows.live()

    async def _publish(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(PUBLISH_S)
            live = self.windows.live()
            for name, version in live["versions"].items():
                low, high = version["ci95"] or (None, None)
                values = {"las": version["las"], "las_low": low, "las_high": high}
                keys = ("sim_gain", "leak_rate", "alarm", "stale", "rows", "missed")
                for key, value in (values | {key: version[key] for key in keys}).items():
                    if value is not None:
                        self.gauges[key].set(float(value), tags={"version": name})
                await loop.run_in_executor(None, self._save, name)

    def _save(self, name: str) -> None:
        window = self.windows.windows[name]
        if self.saved.get(name) != window.num_seen + window.num_missed:
            with contextlib.suppress(DataError):  # the next time, then
                self.folders[name].write_bytes(_window_file(name), window.dump())
                self.saved[name] = window.num_seen + window.num_missed


def _window_file(version: str) -> str:
    return f"live/{version}.jsonl"


def _gauges() -> dict[str, metrics.Gauge]:
    texts = {
        "las": "Leakage-adjusted simulatability of live answers",
        "las_low": "2.5 % bound of LAS",
        "las_high": "97.5 % bound of LAS",
        "sim_gain": "Simulation gain of live answers",
        "leak_rate": "Share of live rationales that leak the answer",
        "alarm": "1 while LAS is below serving.alarm_below",
        "rows": "Answers in the window",
        "missed": "Answers that could not be simulated",
        "stale": "1 while the simulator does not answer",
    }
    return {
        name: metrics.Gauge(f"cotray_live_{name}", description=text, tag_keys=("version",))
        for name, text in texts.items()
    }
