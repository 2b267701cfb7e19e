"""Training workers without room: said, waited for where a node may come, and not without end."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from tqdm import tqdm

from cotray.config import RayConfig, TrainingConfig, parse_config
from cotray.errors import ConfigError, StageError
from cotray.pools.placement import wait_until_placed
from cotray.pools.ray_cluster import can_grow, cluster
from cotray.pools.resources import training_need
from cotray.stages.preflight import notes

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
NEED = training_need("student.training", TrainingConfig.model_validate({"num_workers": 2, "num_cpus": 1}))
LABELLED = training_need("student.training", TrainingConfig(num_cpus=1, label_selector={"zone": "b"}))


@pytest.fixture(scope="module")
def nodes() -> Iterator:
    """A running cluster with one CPU."""
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, connect=True, head_node_args={"num_cpus": 1})
    yield nodes
    import ray

    ray.shutdown()
    nodes.shutdown()


class Bar(io.StringIO):
    """Of tqdm, to be read; `told` is set when it says what is waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.told = threading.Event()

    def write(self, text: str) -> int:
        if "waiting for" in text:
            self.told.set()
        return super().write(text)


def test_on_a_cluster_that_may_grow_it_ends_after_the_timeout_with_what_it_needs(nodes) -> None:
    assert can_grow()
    with tqdm(file=Bar()) as bar, pytest.raises(StageError) as caught:
        wait_until_placed(LABELLED, bar, stall_timeout_s=0.6)
    assert "a training worker with 1 CPU zone=b found no room for 0.6 s" in str(caught.value)
    assert "student.training.stall_timeout_s" in str(caught.value) and "1 CPU and 0 GPU" in str(caught.value)
    config = parse_config({"student": {"training": {"num_gpus": 1}}, "method": "greedy"})
    (note,) = notes(config, "train")
    assert "a training worker with 2 CPU + 1 GPU cannot be placed" in note and "waits until" in note


def test_it_goes_on_when_a_node_comes_and_says_before_what_it_waits_for(nodes, monkeypatch) -> None:
    import ray

    monkeypatch.setattr("cotray.pools.placement.LINE_S", 0)
    bar = Bar()

    with tqdm(file=bar) as line, ThreadPoolExecutor(1) as thread:
        placed = thread.submit(wait_until_placed, NEED, line, stall_timeout_s=600)
        assert bar.told.wait(400)
        nodes.add_node(num_cpus=1)
        placed.result()
    assert "waiting for 2 training workers with 1 CPU each" in bar.getvalue()
    # What was asked for is given back.
    assert {group["state"] for group in ray.util.placement_group_table().values()} <= {"REMOVED"}


def test_what_asks_for_no_gpu_sees_none(nodes) -> None:
    """In a driver that joins, because this one has not been started by cotray."""
    script = """
import os, ray
from cotray.config import RayConfig
from cotray.pools.ray_cluster import cluster
with cluster(RayConfig()):
    sees = ray.remote(num_cpus=0)(lambda: os.environ.get("CUDA_VISIBLE_DEVICES", "all GPUs"))
    print("sees", [ray.get(sees.remote())])
"""
    environment = os.environ | {"RAY_ADDRESS": nodes.address}
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, env=environment, cwd=ROOT, text=True, capture_output=True, timeout=600)
    assert "sees ['']" in result.stdout, result.stderr


def test_on_a_cluster_of_its_own_a_verb_ends_at_once(tmp_path: Path) -> None:
    """As a command, whose cluster would have been started; with one GPU too many, and by its own check."""
    path = tmp_path / "c.yaml"
    tree = {
        "run_dir": str(tmp_path / "run"),
        "student": {"model": "random:qwen2", "training": {"num_gpus": 1}},
    }
    path.write_text(yaml.safe_dump(tree))
    command = [sys.executable, "-m", "jobs.train", "-c", str(path)]
    result = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=600)
    assert result.returncode == 2
    assert "student.training: a training worker with 2 CPU + 1 GPU cannot be placed" in result.stderr
    assert not (tmp_path / "run").exists()


def test_also_where_nobody_looked_before(nodes, monkeypatch) -> None:
    """As train_pairs and programs that call a stage do."""
    monkeypatch.setattr("cotray.pools.ray_cluster._is_own", True)
    with cluster(RayConfig()), tqdm(file=Bar()) as bar, pytest.raises(ConfigError, match="cannot be placed"):
        wait_until_placed(LABELLED, bar, stall_timeout_s=600)
