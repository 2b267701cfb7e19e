"""The rows of a training on their way to trackers, which can be slow, fail or be gone: training never waits.

A run survives its processes. Its id and the last row that was sent lie in the stage's folder, and a row that
comes again, because a lost worker or driver made its step a second time, is not sent again.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from cotray.config import TrainingConfig
from cotray.config.training import Tracking
from cotray.errors import ConfigError, DataError
from cotray.storage.run_folder import RunFolder
from cotray.tracking.clients import Row, TrackedRun, open_tracker

SEND_S = 10.0
"""At least between two notes in the stage's folder, and so between two parcels of rows."""
CLOSE_S = 60.0
"""A tracker may take so long after training until it has all rows."""
MARK = ".tracking.json"


def check_tracking(training: TrainingConfig) -> None:
    """ConfigError where a client that `tracking` names is not installed, or has no key."""
    for name in training.tracking:
        spec = find_spec(name)
        if spec is None or spec.origin is None:  # a folder of that name, as wandb makes, is no package
            raise ConfigError(
                f"training.tracking: {name} is not installed; `pip install {name}`, or leave it out"
            )
    if "wandb" in training.tracking and not _has_wandb_key():
        raise ConfigError(
            "training.tracking: wandb has no key; set WANDB_API_KEY, run `wandb login`, set "
            "WANDB_MODE=offline, or leave wandb out"
        )


def _has_wandb_key() -> bool:
    import wandb  # pyright: ignore[reportMissingImports]

    is_offline = os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun")
    return is_offline or wandb.login(verify=False, prompt=False)


class Feed:
    """What sends a stage's rows to all its trackers."""

    def __init__(self, names: Sequence[Tracking], folder: RunFolder, stage: str, settings: Mapping[str, Any]):
        self.folder, self.mark = folder, f"{stage}/{MARK}"
        noted = json.loads(folder.read_bytes(self.mark)) if names and folder.exists(self.mark) else {}
        self.id = noted.get("id") or uuid.uuid4().hex
        self.sent = tuple(noted.get("sent", (0, False)))
        self.rows: list[Row] = []
        self.noted = time.monotonic()
        run = TrackedRun(self.id, folder.uri(stage), settings, folder.uri(f"tensorboard/{stage}"))
        self.lines = [_Line(name, run) for name in names]

    def add(self, metrics: Mapping[str, Any]) -> None:
        """`metrics` of a step; those that are numbers are sent."""
        if not self.lines:
            return
        values = {
            name: float(value)
            for name, value in metrics.items()
            if isinstance(value, (int, float)) and name != "step"
        }
        row = Row(int(metrics["step"]), time.time(), values)
        if (place := _place(row)) > self.sent:
            self.sent = place
            self.rows.append(row)
        if time.monotonic() - self.noted >= SEND_S:
            self.send()

    def send(self) -> None:
        """The note comes first: a process that dies between the two has lost rows, and doubled none."""
        self.noted = time.monotonic()
        rows, self.rows = self.rows, []
        if not rows:
            return
        # A busy storage costs rows, not the training.
        with contextlib.suppress(DataError):
            self.folder.write_bytes(self.mark, json.dumps({"id": self.id, "sent": self.sent}).encode())
            for line in self.lines:
                line.send(rows)

    def close(self, *, is_done: bool) -> None:
        self.send()
        for line in self.lines:
            line.end(is_done)
        deadline = time.monotonic() + CLOSE_S
        for line in self.lines:
            line.join(deadline)


@contextlib.contextmanager
def feed(
    names: Sequence[Tracking], folder: RunFolder, stage: str, settings: Mapping[str, Any]
) -> Iterator[Feed]:
    """A feed while the block runs; trackers hear whether it ended well."""
    opened = Feed(names, folder, stage, settings)
    try:
        yield opened
    except BaseException:
        opened.close(is_done=False)
        raise
    opened.close(is_done=True)


def _place(row: Row) -> tuple[int, bool]:
    """In the order of rows: that of an evaluation comes after that of its step."""
    return row.step, "dev_loss" in row.values


class _Line:
    """One tracker in a thread of its own; the first failure ends it, with a warning."""

    def __init__(self, name: Tracking, run: TrackedRun) -> None:
        self.name: Tracking = name
        self.run = run
        self._waiting = queue.SimpleQueue[list[Row] | bool]()
        self._thread = threading.Thread(target=self._work, name=f"cotray-{name}", daemon=True)
        self._thread.start()

    def send(self, rows: list[Row]) -> None:
        if self._thread.is_alive():
            self._waiting.put(rows)

    def end(self, is_done: bool) -> None:
        self._waiting.put(is_done)

    def join(self, deadline: float) -> None:
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            _warn(self.name, f"has not taken all rows {CLOSE_S:.0f} s after training")

    def _work(self) -> None:
        tracker = None
        try:
            while not isinstance(rows := self._waiting.get(), bool):
                tracker = tracker or open_tracker(self.name, self.run, first_step=rows[0].step)
                for row in rows:
                    tracker.log(row)
            if tracker:
                tracker.close(is_done=rows)
        except Exception as error:  # whatever a client raises
            said = " ".join(str(error).split())[:200]
            _warn(self.name, f"failed, and training goes on without it: {type(error).__name__}: {said}")


def _warn(name: str, text: str) -> None:
    print(f"training.tracking: {name} {text}", file=sys.stderr, flush=True)
