"""Ray's own autoscaler with fake GPU nodes: a pool grows under load, and nodes go when they are idle."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from autoscaling import AutoscalingCluster, NodeType

from cotray.config import parse_config
from cotray.data.prepare import settings_of
from cotray.pools.ray_cluster import cluster
from cotray.records import Rationale, TeacherRequest
from cotray.stages.generate import generate
from cotray.storage.run_folder import Manifest, RunFolder, fingerprint

pytestmark = pytest.mark.ray

NUM_REQUESTS = 2_000


@pytest.fixture(scope="module")
def gpus() -> Iterator[AutoscalingCluster]:
    """One to three nodes with a GPU each, and a head without CPUs."""
    import ray

    kind = NodeType({"CPU": 1, "GPU": 1, "object_store_memory": 80e6}, min_workers=1, max_workers=3)
    with pytest.MonkeyPatch.context() as patch, AutoscalingCluster({"gpu": kind}, idle_seconds=5) as running:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        ray.init(address=running.address, log_to_driver=False)
        try:
            yield running
        finally:
            ray.shutdown()


def num_gpus() -> int:
    import ray

    return int(ray.cluster_resources().get("GPU", 0))


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError(f"not within five minutes; {num_gpus()} GPUs")


def test_a_pool_grows_from_one_to_three_nodes_under_load_and_shrinks_to_one_when_idle(
    gpus: AutoscalingCluster, tmp_path: Path
) -> None:
    teacher = {
        "engine": "fake",
        "engine_args": {"seconds_per_batch": 0.8},
        "batch_size": 32,
        "replicas": {"min": 1, "max": 3},
        "num_cpus": 1,
        "num_gpus": 1,
    }
    config = parse_config({"run_dir": str(tmp_path), "method": "contrast-wrong", "teacher": teacher})
    folder = RunFolder(config.run_dir)
    rows = [
        TeacherRequest(f"q{i:04d}", "yes_no", "Fly?", ("yes", "no"), "yes", target_answer="yes")
        for i in range(NUM_REQUESTS)
    ]
    settings = settings_of(config)
    version = fingerprint(settings, "")
    folder.write_records("requests/part-00000.parquet", rows, TeacherRequest, version=version)
    folder.begin("requests", settings=settings, input="", overwrite=False)
    counts = {"kind/factual": NUM_REQUESTS}
    folder.finish(Manifest("requests", settings, "", NUM_REQUESTS, NUM_REQUESTS, 0, counts))

    wait_for(lambda: num_gpus() == 1)
    with cluster(config.ray), ThreadPoolExecutor(1) as executor:
        job = executor.submit(generate, config)
        wait_for(lambda: num_gpus() == 3 or job.done())
        assert not job.done(), "the job ended before the pool had grown"
        manifest = job.result(600)
    wait_for(lambda: num_gpus() == 1)
    assert manifest.num_out == NUM_REQUESTS
    assert manifest.metrics["last_run"]["replica_starts"] == 3
    made = [row.id for row in folder.read_records("rationales", Rationale)]
    assert made == [row.id for row in rows]
