"""5,000 requests on a real cluster of three nodes while replicas, a node and the driver are killed.

Whatever is killed, the same command ends with every id once, and row for row with what one teacher writes in
one process. The output is on a local disk once, and once on S3 with a server that throttles and resets.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from forked_workers import forked_workers, server_of

from cotray.records import Rationale, TeacherRequest
from cotray.storage.run_folder import Manifest, RunFolder, fingerprint
from cotray.teacher.fake_teacher import FakeTeacher

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1500)]

ROOT = Path(__file__).parents[2]
NUM_REQUESTS = 5_000


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A head without replicas and two workers with two CPUs each."""
    from ray.cluster_utils import Cluster

    folder = tempfile.mkdtemp(prefix="ct-", dir="/tmp")
    settings = {
        "RAY_AUTH_MODE": "disabled",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with pytest.MonkeyPatch.context() as patch, forked_workers() as server:
        for name, value in settings.items():
            patch.setenv(name, value)
        cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "include_dashboard": False,
                "object_store_memory": 150_000_000,
                "temp_dir": folder,
                "_system_config": {"health_check_period_ms": 500, "health_check_failure_threshold": 4},
            },
        )
        cluster.fork_server = server_of(server)  # type: ignore[attr-defined]
        add_worker(cluster)
        add_worker(cluster)
        try:
            yield cluster
        finally:
            cluster.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


def add_worker(cluster: Any) -> Any:
    return cluster.add_node(num_cpus=2, object_store_memory=100_000_000)


def write_requests(folder: RunFolder) -> None:
    """As `prepare` leaves them for the configuration below, without 5,000 questions to read."""
    from cotray.data.prepare import settings_of

    settings = settings_of(config())
    rows = requests()
    for part, start in enumerate(range(0, NUM_REQUESTS, 2000)):
        name, shard = f"requests/part-{part:05d}.parquet", rows[start : start + 2000]
        folder.write_records(name, shard, TeacherRequest, version=fingerprint(settings, ""))
    counts = {"kind/factual": NUM_REQUESTS}
    folder.begin("requests", settings=settings, input="", overwrite=False)
    folder.finish(Manifest("requests", settings, "", NUM_REQUESTS, NUM_REQUESTS, 0, counts))


def requests() -> list[TeacherRequest]:
    return [
        TeacherRequest(f"q{i:05d}", "yes_no", f"Is {i} even?", ("yes", "no"), "yes", target_answer="yes")
        for i in range(NUM_REQUESTS)
    ]


def config() -> Any:
    from cotray.config import load_config

    return load_config(ROOT / "jobs" / "configs" / "smoke.yaml", OPTIONS)


OPTIONS = [
    "method=contrast-wrong",
    "teacher.engine=fake",
    "teacher.engine_args={seconds_per_batch: 0.4}",
    "teacher.batch_size=32",
    "teacher.replicas={min: 3, max: 4}",
]


@contextlib.contextmanager
def driver(cluster: Any, run_dir: str, log: Path, *options: str) -> Iterator[subprocess.Popen]:
    """`python -m jobs.generate` in a process of its own."""
    command = [sys.executable, "-m", "jobs.generate", "-c", "jobs/configs/smoke.yaml", *OPTIONS, *options]
    with log.open("a") as output:
        process = subprocess.Popen(
            [*command, f"run_dir={run_dir}"],
            cwd=ROOT,
            env=os.environ | {"RAY_ADDRESS": cluster.address},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def until(condition: Callable[[], Any], process: subprocess.Popen, log: Path) -> None:
    """Wait for the condition while the driver runs."""
    wait_for(lambda: condition() or process.poll() is not None)
    assert process.poll() is None, log.read_text()[-3000:]


def wait_for(condition: Callable[[], Any]) -> None:
    for _ in range(9000):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("nothing happened for a quarter of an hour")


def replicas(cluster: Any) -> list[int]:
    """Processes of this cluster's replicas."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                title = (process / "cmdline").read_bytes()
                parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
                if title.startswith(b"ray::MapWorker(MapBatches(Replica") and parent == cluster.fork_server:
                    found.append(int(process.name))
    return sorted(found)


def kill_replicas(cluster: Any, count: int, process: subprocess.Popen, log: Path) -> None:
    until(lambda: len(replicas(cluster)) >= count, process, log)
    for pid in replicas(cluster)[:count]:
        os.kill(pid, signal.SIGKILL)


def num_written(folder: RunFolder) -> int:
    """Rows in batches, by the names of their files."""
    paths = folder.parquet_files("rationales", recursive=True)
    names = [path.removesuffix(".parquet") for path in paths if "/.batches-" in path]
    return sum(int(name.rpartition("-")[2]) for name in names)


def disturb_and_finish(cluster: Any, folder: RunFolder, log: Path, *options: str) -> None:
    """Two replicas, a node, and the driver die; then the same command again."""
    with driver(cluster, folder.root, log, *options) as first:
        until(lambda: num_written(folder) > 320, first, log)
        kill_replicas(cluster, 2, first, log)
        until(lambda: num_written(folder) > 960, first, log)
        cluster.remove_node(cluster.worker_nodes.copy().pop(), allow_graceful=False)
        before = num_written(folder)
        add_worker(cluster)
        until(lambda: num_written(folder) > before + 640, first, log)
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert not (folder.manifest("rationales"))
    with driver(cluster, folder.root, log, *options) as second:
        until(lambda: num_written(folder) > 3200, second, log)
        kill_replicas(cluster, 1, second, log)
        assert second.wait(800) == 0, log.read_text()[-3000:]


def rows_of(folder: RunFolder) -> list[Rationale]:
    return list(folder.read_records("rationales", Rationale))


@pytest.fixture(scope="module")
def expected() -> list[Rationale]:
    """What one teacher writes for all requests, in this process."""
    teacher = config().teacher.model_copy(update={"engine_args": {}})
    return FakeTeacher(teacher, method="contrast-wrong").generate(requests())


def check(folder: RunFolder, expected: list[Rationale]) -> None:
    rows = rows_of(folder)
    assert [row.id for row in rows] == [f"q{i:05d}" for i in range(NUM_REQUESTS)]
    assert rows == expected
    manifest = folder.require("rationales", "generate")
    assert (manifest.num_in, manifest.num_out, manifest.num_dead) == (NUM_REQUESTS, NUM_REQUESTS, 0)
    names = [path.rpartition("/")[2] for path in folder.parquet_files("rationales", recursive=True)]
    assert names == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]
    assert not folder.exists("dead_letter")


@pytest.mark.long
def test_killed_replicas_nodes_and_driver_change_no_row(
    nodes: Any, expected: list[Rationale], tmp_path: Path
) -> None:
    folder = RunFolder(str(tmp_path / "run"))
    write_requests(folder)
    disturb_and_finish(nodes, folder, tmp_path / "log")
    check(folder, expected)
    last = folder.require("rationales", "generate").metrics["last_run"]
    assert 0 < last["made"] < NUM_REQUESTS and last["retries"] >= 1, last


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch, nodes: Any) -> Iterator[str]:
    """The URL of a server in a process of its own, which throttles 5 % and resets 2 % of the uploads."""
    import boto3

    command = [
        sys.executable,
        "-m",
        "tests.support.s3_server",
        "--throttle-share",
        "0.05",
        "--reset-share",
        "0.02",
    ]
    server = subprocess.Popen([*command, "--seed", "0"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        boto3.client("s3", endpoint_url=url, region_name="us-east-1").create_bucket(Bucket="chaos")
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        yield url
    finally:
        server.kill()
        server.wait()


def test_the_same_with_the_output_on_s3(
    nodes: Any, expected: list[Rationale], s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = RunFolder("s3://chaos/run")
    write_requests(folder)
    monkeypatch.delenv("AWS_ENDPOINT_URL")  # the command has it from its configuration alone
    disturb_and_finish(nodes, folder, tmp_path / "log", f"storage.endpoint_url={s3}")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    check(folder, expected)
    last = folder.require("rationales", "generate").metrics["last_run"]
    assert 0 < last["made"] < NUM_REQUESTS and last["retries"] >= 1, last


def test_work_bound_to_a_node_that_never_comes_back_is_given_to_other_replicas(
    nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two zones with a replica each, and the only node of one zone goes for good."""
    import ray

    from cotray.pools import progress
    from cotray.pools.ray_cluster import cluster
    from cotray.stages.generate import generate

    monkeypatch.setattr(progress, "STUCK_S", 3)
    folder = RunFolder(str(tmp_path / "run"))
    write_requests(folder)
    one_each = config().model_copy(update={"run_dir": folder.root})
    zones = {zone: nodes.add_node(num_cpus=1, labels={"zone": zone}) for zone in "ab"}
    pools = [{"label_selector": {"zone": zone}} for zone in zones]
    teacher = {"pools": pools, "batch_size": 128}
    teacher = type(one_each.teacher).model_validate(one_each.teacher.model_dump() | teacher)
    ray.init(address=nodes.address, log_to_driver=False)
    try:
        with cluster(one_each.ray), ThreadPoolExecutor(1) as executor:
            job = executor.submit(generate, one_each.model_copy(update={"teacher": teacher}))
            wait_for(lambda: num_written(folder) > 0 or job.done())
            nodes.remove_node(zones["b"], allow_graceful=False)
            assert job.result(600).num_out == NUM_REQUESTS
    finally:
        ray.shutdown()
        nodes.remove_node(zones["a"])
    assert [row.id for row in rows_of(folder)] == [f"q{i:05d}" for i in range(NUM_REQUESTS)]
