"""The pool on a real cluster, with rows that fail, always or once."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from local_ray import local_ray

from cotray.config import PoolConfig, RayConfig
from cotray.errors import ConfigError, StageError, cotray_error
from cotray.pools.pool import run_pool
from cotray.pools.ray_cluster import cluster
from cotray.pools.replica import PoolStage
from cotray.records import Rationale, TeacherRequest
from cotray.storage.run_folder import RunFolder
from cotray.storage.shards import Shards

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def ray_cluster() -> Iterator[None]:
    from ray import cloudpickle

    # Replicas cannot import this module, so its functions travel by value.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        with local_ray(num_cpus=4, num_gpus=1), cluster(RayConfig()):
            yield
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def explain(requests: Sequence[TeacherRequest], on_finished: Callable[[int], None]) -> list[Rationale]:
    made = []
    for request in requests:
        if request.question == "bad":
            raise ValueError("cannot be read")
        if request.question == "deadly":
            os._exit(1)
        if request.question == "endless":
            threading.Event().wait()
        if request.question.startswith("kill once "):
            marker = Path(request.question.removeprefix("kill once "))
            if not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        if request.question.startswith("once "):
            marker = Path(request.question.removeprefix("once "))
            if not marker.exists():
                marker.touch()
                raise RuntimeError("no memory")
        made.append(Rationale.from_row(request.to_row() | {"rationale": f"about {request.id}"}))
        on_finished(1)
    return made


def build() -> Any:
    return explain


def give_up(request: TeacherRequest, error: str, attempts: int) -> list[Rationale]:
    return [Rationale.from_row(request.to_row() | {"error": error, "attempts": attempts})]


def all_rows(table: Any) -> Any:
    import pyarrow as pa

    return pa.array([True] * table.num_rows)


def no_model() -> Any:
    raise ConfigError("teacher.model=nothing: no such folder")


def run(
    folder: RunFolder,
    questions: list[str],
    *,
    failed: Any = give_up,
    build: Any = build,
    max_error_rate: float = 1.0,
    **pool: Any,
) -> list[Rationale]:
    requests = [TeacherRequest(str(i), "yes_no", q, ("yes", "no"), "yes") for i, q in enumerate(questions)]
    folder.write_records("requests/part-0.parquet", requests, TeacherRequest)
    shards = Shards(folder.root, "requests", "rationales", Rationale, "v", all_rows)
    stage = PoolStage(shards, TeacherRequest, build, failed=failed, max_error_rate=max_error_rate)
    run_pool(stage, total=len(questions), config=PoolConfig(**pool), batch_size=8, label="test")
    return sorted(folder.read_records("rationales", Rationale), key=lambda row: int(row.id))


def test_a_row_that_fails_becomes_a_row_with_its_error_and_its_batch_is_made(tmp_path: Path) -> None:
    questions = ["ok"] * 20
    questions[3] = questions[11] = "bad"
    rows = run(RunFolder(str(tmp_path)), questions)
    assert [row.id for row in rows] == [str(index) for index in range(20)]
    failed = [row for row in rows if row.error]
    assert [(row.id, row.error, row.attempts) for row in failed] == [
        ("3", "ValueError: cannot be read", 3),
        ("11", "ValueError: cannot be read", 3),
    ]
    assert all(row.rationale == f"about {row.id}" for row in rows if not row.error)


def test_a_row_that_fails_once_is_tried_again(tmp_path: Path) -> None:
    rows = run(RunFolder(str(tmp_path / "run")), ["ok", f"once {tmp_path / 'marker'}", "ok"])
    assert [row.error for row in rows] == ["", "", ""]


def test_a_stage_that_cannot_write_failures_raises_them(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="cannot be read"):
        run(RunFolder(str(tmp_path)), ["ok", "bad"], failed=None)


def test_a_batch_whose_replica_was_killed_is_made_by_another(tmp_path: Path) -> None:
    rows = run(
        RunFolder(str(tmp_path / "run")), ["ok"] * 5 + [f"kill once {tmp_path / 'marker'}"] + ["ok"] * 5
    )
    assert [row.error for row in rows] == [""] * 11


def test_a_row_that_kills_every_replica_is_found_and_given_up(tmp_path: Path) -> None:
    rows = run(RunFolder(str(tmp_path)), ["ok"] * 3 + ["deadly"] + ["ok"] * 8)
    assert [row.id for row in rows if not row.error] == [str(i) for i in range(12) if i != 3]
    (dead,) = [row for row in rows if row.error]
    assert (dead.id, dead.error, dead.attempts) == (
        "3",
        "the replica died each of 3 times that it was made",
        3,
    )


def test_a_stall_ends_the_stage_and_names_the_rows_at_work(tmp_path: Path) -> None:
    # Time enough for a replica to start on a busy machine; else the stall would be that there is none.
    with pytest.raises(StageError, match="no row finished for 10 s") as caught:
        run(RunFolder(str(tmp_path)), ["ok", "endless"], stall_timeout_s=10)
    assert "0, 1 since" in str(caught.value) and "1 running" in str(caught.value)


def test_a_pool_that_no_node_can_hold_is_a_stall_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(
        StageError,
        match=r"0 running, 1 starting or waiting for a node with 1 CPU and 2 GPU; .* 4 CPU and 1 GPU in all",
    ):
        run(RunFolder(str(tmp_path)), ["ok"], num_gpus=2, stall_timeout_s=2)


def test_a_model_that_cannot_be_loaded_is_one_error_without_retries(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="no such folder") as caught:
        run(RunFolder(str(tmp_path)), ["ok"], build=no_model)
    assert isinstance(cotray_error(caught.value), ConfigError)


def test_a_stage_stops_when_more_rows_failed_than_allowed_and_tries_them_again(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    with pytest.raises(StageError, match=r"rows failed \(\d+ x ValueError: cannot be read\)"):
        run(folder, ["bad"] * 40 + ["ok"] * 40, max_error_rate=0.05)
    assert not list(folder.read_records("rationales", Rationale))  # nothing sealed
    rows = run(folder, ["ok"] * 80)
    assert [row.error for row in rows] == [""] * 80


def test_a_stage_whose_every_row_failed_is_not_done_and_tries_them_again(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    with pytest.raises(StageError, match=r"4 of 4 rows failed \(4 x ValueError: cannot be read\)"):
        run(folder, ["bad"] * 4)
    assert [row.error for row in run(folder, ["ok"] * 4)] == [""] * 4


def test_pools_of_two_kinds_share_the_work(tmp_path: Path) -> None:
    pools = ({"num_cpus": 1}, {"num_cpus": 0.5, "num_gpus": 1})
    rows = run(RunFolder(str(tmp_path)), ["ok"] * 40, pools=pools)
    assert [row.rationale for row in rows] == [f"about {index}" for index in range(40)]


def test_counts_reach_prometheus_through_ray(tmp_path: Path) -> None:
    import ray

    run(RunFolder(str(tmp_path)), ["ok"] * 20 + ["bad"])
    (node,) = ray.nodes()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    names = ["rows_total", "dead_letters_total", "retries_total", "replica_starts_total"]
    names += ["queue_depth", "replicas"]
    for _ in range(300):
        text = urllib.request.urlopen(url, timeout=10).read().decode()
        if all(f"ray_cotray_{name}{{" in text for name in names):
            return
        time.sleep(0.1)
    raise AssertionError([line for line in text.splitlines() if "cotray" in line])


def test_a_replica_on_a_gpu_gets_batches_like_any_other(tmp_path: Path) -> None:
    rows = run(RunFolder(str(tmp_path)), ["ok"] * 20, num_gpus=1)
    assert [row.rationale for row in rows] == [f"about {index}" for index in range(20)]
