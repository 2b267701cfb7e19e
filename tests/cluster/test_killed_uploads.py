"""A worker, the controller or the driver is killed while a checkpoint is uploaded to a troubled S3.

The server kills, in the middle of the upload of a shard: training goes on meanwhile, and nothing waits.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import boto3
import pytest
import torch
from local_ray import joining, local_ray
from s3_server import Server, serve
from test_stage_train import BATCHES, MODEL, TRAINING, examples_in, fit_on, weights_in

from cotray.config import TrainingConfig
from cotray.config.training import Workers
from cotray.models.loading import load_model
from cotray.pools.train_workers import FitReport, fit
from cotray.training.batches import StudentBatches
from cotray.training.examples import Examples
from cotray.training.node_examples import StageExamples

pytestmark = [pytest.mark.ray, pytest.mark.long]
HERE = Path(__file__).parent
BUCKET = "killed"
Straight = Callable[[float], dict[str, torch.Tensor]]
"""Number of threads of a worker -> weights."""
SECOND = "/step-00000004/"
"""The checkpoint that is under way; the first one counts already."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Throttles 5 % of the requests and resets 2 % of the uploads."""
    settings = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
    }
    with serve() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        boto3.client("s3", endpoint_url=server.url).create_bucket(Bucket=BUCKET)
        patch.setenv("AWS_ENDPOINT_URL", server.url)
        server.faults.throttle_share, server.faults.reset_share = 0.05, 0.02
        yield server


@pytest.fixture(scope="module")
def cluster(server: Server) -> Iterator[str]:
    """Room for two groups: what a killed controller held is given back by an actor that asks the dashboard,
    which is not there."""
    path = os.pathsep.join([str(HERE), str(HERE.parent / "support"), os.environ.get("PYTHONPATH", "")])
    settings = {
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": path,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        with local_ray(num_cpus=4, object_store_memory=200 << 20) as address:
            yield address


@pytest.fixture(scope="module")
def straight(cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Straight:
    """The weights of an undisturbed run on the local disk, whose workers have so many threads: two add up in
    another order than one, on some machines."""

    @cache
    def weights(num_cpus: float) -> dict[str, torch.Tensor]:
        folder = tmp_path_factory.mktemp("straight") / "student"
        training = TRAINING.model_copy(update={"num_cpus": num_cpus})
        fit_on(folder, BATCHES, lambda metrics: None, training=training)
        return weights_in(folder)

    return weights


def batches_of_known_workers(examples: Examples, *, folder: str) -> StudentBatches:
    """Every worker calls it, and leaves its process in the folder."""
    Path(folder, f"worker-{os.environ['RANK']}").write_text(str(os.getpid()))
    return BATCHES(examples)


def fit_to_s3(
    folder: Path, on_metrics: Callable[[dict[str, float]], None], training: TrainingConfig = TRAINING
) -> FitReport:
    manifest = examples_in(folder)
    examples = StageExamples(str(folder), "examples", manifest.fingerprint)
    return fit(
        examples,
        partial(batches_of_known_workers, folder=str(folder)),
        MODEL,
        training,
        output_of(folder),
        alpha=0.5,
        seed=42,
        on_metrics=on_metrics,
    )


def output_of(folder: Path) -> str:
    return f"s3://{BUCKET}/{folder.name}/student"


class Killer:
    """Kills a process, once, when half of a shard of the second checkpoint has arrived."""

    def __init__(self, victim: Callable[[], int]) -> None:
        self.victim = victim
        self.killed: list[int] = []

    def __call__(self, path: str) -> None:
        if SECOND in path and path.endswith(".distcp") and not self.killed:
            self.killed.append(self.victim())
            os.kill(self.killed[0], signal.SIGKILL)


def worker(folder: Path, rank: int) -> int:
    return int((folder / f"worker-{rank}").read_text())


def controller(folder: Path) -> int:
    """It was forked by the process that forked the workers."""
    parent = parent_of(worker(folder, 0))
    (found,) = [
        int(process.name)
        for process in Path("/proc").iterdir()
        if process.name.isdigit() and parent_of(int(process.name)) == parent and is_controller(process)
    ]
    return found


def parent_of(process: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return -1


def is_controller(process: Path) -> bool:
    with contextlib.suppress(OSError):
        return b"TrainController" in (process / "cmdline").read_bytes()
    return False


def check(folder: Path, report: FitReport, straight: dict[str, torch.Tensor]) -> None:
    assert (report.num_steps, report.num_epochs) == (6, 3)
    found = load_model(output_of(folder), dtype=torch.float32).state_dict()
    assert found.keys() == straight.keys()
    assert all(torch.allclose(found[key], straight[key], atol=1e-6, rtol=0) for key in straight)


VICTIMS: dict[str, tuple[Callable[[Path], int], TrainingConfig]] = {
    "worker": (partial(worker, rank=1), TRAINING),
    "worker of an elastic group": (
        partial(worker, rank=1),
        TRAINING.model_copy(update={"num_workers": Workers(min=1, max=3), "num_cpus": 2}),
    ),
    "controller": (controller, TRAINING),
}


@pytest.mark.parametrize("victim", VICTIMS)
def test_a_killed_worker_or_controller_changes_nothing(
    server: Server, straight: Straight, tmp_path: Path, victim: str
) -> None:
    steps: list[float] = []
    find, training = VICTIMS[victim]
    killer = Killer(lambda: find(tmp_path))
    server.faults.in_mid_upload = killer
    report = fit_to_s3(tmp_path, lambda row: steps.append(row["step"]) if "loss" in row else None, training)
    assert killer.killed
    # An elastic group takes as many workers as there is room for.
    assert sorted(path.name for path in tmp_path.glob("worker-*")) == ["worker-0", "worker-1"]
    # Training had gone on; it is taken up after the first checkpoint, the only one that counts.
    assert steps[:4] == [1, 2, 3, 4] and steps[-4:] == [3, 4, 5, 6] and len(steps) in (8, 9, 10)
    check(tmp_path, report, straight(training.num_cpus))


def test_a_killed_driver_changes_nothing_for_the_same_command(
    server: Server, cluster: str, straight: Straight, tmp_path: Path
) -> None:
    script = f"""
import ray
from pathlib import Path
from test_killed_uploads import fit_to_s3
ray.init(log_to_driver=False)
fit_to_s3(Path({str(tmp_path)!r}), lambda metrics: None)
"""
    driver = subprocess.Popen([sys.executable, "-c", script], env=joining(cluster), stderr=subprocess.PIPE)
    killer = Killer(lambda: driver.pid)
    server.faults.in_mid_upload = killer
    try:
        _, said = driver.communicate(timeout=600)
    finally:
        driver.kill()
    assert killer.killed and driver.returncode == -signal.SIGKILL, said.decode()[-3000:]
    steps: list[float] = []
    report = fit_to_s3(tmp_path, lambda row: steps.append(row["step"]) if "loss" in row else None)
    # Workers outlive their driver for a moment, in which the checkpoint of step 4 may become whole.
    assert steps in ([3, 4, 5, 6], [5, 6])
    check(tmp_path, report, straight(TRAINING.num_cpus))
