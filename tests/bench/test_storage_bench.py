"""The server that counts requests, and the monitor that counts calls."""

from __future__ import annotations

import json
import time
import urllib.request

from cotray.bench.counting_s3 import COUNTS_PATH
from cotray.bench.storage import BUCKET, CountingMonitor, counting_s3
from cotray.storage.run_folder import RunFolder


def test_requests_are_counted_by_kind_and_answered_after_the_delay() -> None:
    with counting_s3(0.1) as url:
        folder = RunFolder(f"s3://{BUCKET}/run")
        began = time.perf_counter()
        folder.write_bytes("part.parquet", b"rows")
        assert folder.read_bytes("part.parquet") == b"rows"
        assert folder.parquet_files("") == [f"{BUCKET}/run/part.parquet"]
        took = time.perf_counter() - began
        with urllib.request.urlopen(url + COUNTS_PATH) as answer:
            counts = json.load(answer)
    # The bucket is made by a PUT of its own.
    assert counts == {"PUT": 2, "GET": 1, "LIST": 1}
    assert took >= 0.3


def test_calls_of_the_monitor_are_counted() -> None:
    monitor = CountingMonitor()
    monitor.begin("batch", "replica", "node", ["a"])
    monitor.end(["batch"], {"rows": 1})
    assert monitor.read().counts["rows"] == 1
    assert monitor.calls() == 3
