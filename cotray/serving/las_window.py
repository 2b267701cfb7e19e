"""Online LAS: the last answers of each student version that were simulated, and what they say."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from cotray.records import Simulation
from cotray.scoring.las import LasReport, las

# Intervals are for a chart that is drawn anew every few seconds.
NUM_RESAMPLES = 1000


@dataclass(frozen=True)
class Seen:
    """What LAS needs of one live answer; `at` is Unix time. No text is kept."""

    at: float
    student: str
    sim_x: str
    sim_e: str
    sim_xe: str


@dataclass
class Window:
    """The last `size` simulated answers of one version."""

    size: int
    rows: deque[Seen] = field(default_factory=deque)
    num_seen: int = 0
    num_missed: int = 0
    """Answers drawn for simulation that the simulator could not take."""
    stale_since: float | None = None
    """Since when the simulator has not answered; None while it does."""
    _reported: tuple[int, LasReport] | None = field(default=None, compare=False)

    def add(self, simulation: Simulation, *, at: float) -> None:
        s = simulation
        self.rows.append(Seen(at, s.student_answer, s.sim_x, s.sim_e, s.sim_xe))
        self.num_seen += 1
        self.stale_since = None
        while len(self.rows) > self.size:
            self.rows.popleft()

    def miss(self, *, at: float) -> None:
        self.num_missed += 1
        self.stale_since = self.stale_since or at

    def report(self) -> LasReport:
        """Computed once for the same answers, however many look."""
        if self._reported is None or self._reported[0] != self.num_seen:
            report = las(
                [row.student for row in self.rows],
                [row.sim_x for row in self.rows],
                [row.sim_e for row in self.rows],
                [row.sim_xe for row in self.rows],
                num_resamples=NUM_RESAMPLES,
            )
            self._reported = (self.num_seen, report)
        return self._reported[1]

    def dump(self) -> bytes:
        head = {"num_seen": self.num_seen, "num_missed": self.num_missed}
        return "\n".join(json.dumps(each) for each in [head, *map(asdict, self.rows)]).encode()

    @classmethod
    def load(cls, size: int, data: bytes) -> Window:
        head, *rows = map(json.loads, data.decode().splitlines())
        return cls(size, deque([Seen(**row) for row in rows][-size:]), **head)


class Windows:
    """One window per version, with the alarm over them."""

    def __init__(
        self,
        versions: Sequence[str],
        *,
        size: int,
        alarm_below: float | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.alarm_below, self.clock = alarm_below, clock
        self.windows = {version: Window(size) for version in versions}

    def add(self, version: str, simulation: Simulation) -> None:
        self.windows[version].add(simulation, at=self.clock())

    def missed(self, version: str) -> None:
        self.windows[version].miss(at=self.clock())

    def live(self) -> dict[str, Any]:
        """`GET /v1/las/live`: per version LAS with its interval, and whether it is an alarm."""
        versions = {}
        for name, window in self.windows.items():
            report = window.report()
            is_low = self.alarm_below is not None and report.las is not None and report.las < self.alarm_below
            versions[name] = asdict(report) | {
                "rows": len(window.rows),
                "seen": window.num_seen,
                "missed": window.num_missed,
                "last_at": window.rows[-1].at if window.rows else None,
                "alarm": is_low,
                "stale": window.stale_since is not None,
                "stale_since": window.stale_since,
            }
        return {"versions": versions, "alarm_below": self.alarm_below}
