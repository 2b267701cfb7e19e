"""Batches of one unit that are made but not written, because on object storage each file costs requests.

On a local disk, where a file costs nothing, each batch is written at once. Elsewhere what was made in
half a minute becomes one file: that much work is lost with a replica, and the batches under way.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

from cotray.pools.monitor import BatchReport, end_all
from cotray.storage.filesystems import with_retries
from cotray.storage.shards import Shards

SECONDS_PER_FILE = 30.0
"""Of work, on object storage."""


class GatheredBatches:
    """Rows of one shard, in the order in which they were made."""

    def __init__(self, shards: Shards, shard: str) -> None:
        self.shards, self.shard = shards, shard
        self.seconds = 0.0 if shards.folder.is_local else SECONDS_PER_FILE
        self.rows: list[Any] = []
        self.reports: list[tuple[BatchReport, Counter[str]]] = []
        self.written_at = self.added_at = time.monotonic()

    def add(self, rows: Sequence[Any], report: BatchReport, counts: Counter[str]) -> None:
        """One batch that is made."""
        now = time.monotonic()
        took, self.added_at = now - self.added_at, now
        self.rows += rows
        self.reports.append((report, counts))
        report.made()
        # Another batch like this one would make it too long.
        if now - self.written_at + took > self.seconds:
            self.write()

    def write(self) -> None:
        """All there is, as one file."""
        rows, reports, self.rows, self.reports = self.rows, self.reports, [], []
        if reports:
            with_retries(partial(self.shards.write, self.shard, rows))
            end_all(reports)
        self.written_at = time.monotonic()
