"""The pool on a real cluster, with rows that fail, always or once."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from cotray.config import PoolConfig, RayConfig
from cotray.data.store import RunFolder
from cotray.records import Rationale, TeacherRequest
from cotray.stages.cluster import cluster
from cotray.stages.pool import PoolStage, run_pool

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def ray_cluster() -> Iterator[None]:
    import ray
    from ray import cloudpickle

    folder = tempfile.mkdtemp(prefix="ct-", dir="/tmp")
    ray.init(
        address="local",
        num_cpus=4,
        num_gpus=1,  # declared, not there: the code path of replicas on GPUs
        object_store_memory=150_000_000,
        include_dashboard=False,
        log_to_driver=False,
        _temp_dir=folder,
    )
    # Replicas cannot import this module, so its functions travel by value.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        with cluster(RayConfig()):
            yield
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def explain(requests: Sequence[TeacherRequest], on_finished: Callable[[int], None]) -> list[Rationale]:
    made = []
    for request in requests:
        if request.question == "bad":
            raise ValueError("cannot be read")
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


def run(folder: RunFolder, questions: list[str], *, failed: Any = give_up, **pool: Any) -> list[Rationale]:
    requests = [TeacherRequest(str(i), "yes_no", q, ("yes", "no"), "yes") for i, q in enumerate(questions)]
    folder.write_records("requests/part-0.parquet", requests, TeacherRequest)
    stage = PoolStage("requests", "rationales", TeacherRequest, Rationale, build, all_rows, failed=failed)
    run_pool(folder, stage, total=len(questions), pool=PoolConfig(**pool), batch_size=8, label="test")
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


def test_a_replica_on_a_gpu_gets_batches_like_any_other(tmp_path: Path) -> None:
    rows = run(RunFolder(str(tmp_path)), ["ok"] * 20, num_gpus=1)
    assert [row.rationale for row in rows] == [f"about {index}" for index in range(20)]
