"""Executes the scaling of an overlay's RayCluster: manifest -> Ray's translator -> autoscaler, fake nodes.

    python tests/support/scaling.py OVERLAY

prints one JSON object: where each thing that a run asks for was placed, and which nodes there were. A process
of its own, because a process can use one Ray cluster.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import ray
from autoscaling import AutoscalingCluster, NodeType
from manifests.capacity import Need, room_for
from manifests.configurations import Run, runs
from manifests.rendering import K8S, render
from manifests.translation import node_types
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cotray.config.base import Pool

MAX_NODES = 2
"""Of a group; as many as the machine that tests has room for."""
IDLE_S = 4.0
"""In place of the manifests' minutes."""
TIMEOUT_S = 300


def scaled_down(kind: dict[str, Any]) -> NodeType:
    """The autoscaler's node type with everything that decides, and sizes for one machine."""
    resources = {name: amount for name, amount in kind["resources"].items() if name != "memory"}
    return NodeType(
        # Raylets take memory that is really there.
        resources={**resources, "object_store_memory": 80e6},
        min_workers=kind["min_workers"],
        max_workers=min(kind["max_workers"], MAX_NODES),
        labels=kind["labels"],
        priority=kind.get("priority", 0),
        idle_timeout_s=IDLE_S if "idle_timeout_s" in kind else None,
    )


def scale(run: Run, teacher: NodeType) -> dict[str, Any]:
    """Ask for what the run asks for, one after the other, and then for nothing."""
    config = run.config
    job = run.cluster.owner["spec"]
    seen: dict[str, Any] = {"before": nodes()}
    driver = place(1, job["entrypointNumCpus"], 0, {}, json.loads(job["entrypointResources"]))
    seen["driver"] = where(driver)
    pool: Pool = config.teacher
    replica = Need("teacher", 1, {"CPU": pool.num_cpus, "GPU": pool.num_gpus}, pool.label_selector)
    # As many as fill a group.
    teachers = place(
        room_for(replica, {"teacher": asdict(teacher)}), pool.num_cpus, pool.num_gpus, pool.label_selector
    )
    seen["teachers"] = where(teachers)
    if any("spot" in label for label in seen["teachers"]):
        overflow = place(1, pool.num_cpus, pool.num_gpus, pool.label_selector)
        seen["overflow"] = where(overflow)
        release(overflow)
    training = config.student.training
    bundle = {"CPU": training.num_cpus, **({"GPU": training.num_gpus} if training.num_gpus else {})}
    gang = placement_group([bundle] * MAX_NODES, bundle_label_selector=[training.label_selector] * MAX_NODES)
    ray.get(gang.ready(), timeout=TIMEOUT_S)
    options: dict[str, Any] = {"num_cpus": training.num_cpus, "num_gpus": training.num_gpus}
    trainers = [
        Place.options(
            **options,
            scheduling_strategy=PlacementGroupSchedulingStrategy(gang, placement_group_bundle_index=index),
        ).remote()
        for index in range(MAX_NODES)
    ]
    seen["trainers"] = where(trainers)
    release(driver + teachers + trainers)
    remove_placement_group(gang)
    wait_until(lambda: not nodes())
    seen["after"] = nodes()
    return seen


@ray.remote(max_restarts=0)
class Place:
    """Holds resources, and knows its node's labels."""

    def labels(self) -> str:
        return described(ray.get_runtime_context().get_node_labels())


def place(
    count: int,
    num_cpus: float,
    num_gpus: float,
    selector: dict[str, str],
    resources: dict[str, float] | None = None,
) -> list[Any]:
    options: dict[str, Any] = {"num_cpus": num_cpus, "num_gpus": num_gpus, "label_selector": selector}
    return [Place.options(**options, resources=resources or {}).remote() for _ in range(count)]


def where(actors: list[Any]) -> list[str]:
    return sorted(ray.get([actor.labels.remote() for actor in actors], timeout=TIMEOUT_S))


def release(actors: list[Any]) -> None:
    for actor in actors:
        ray.kill(actor)


def nodes() -> list[str]:
    """The workers' that are alive."""
    labels = [node["Labels"] for node in ray.nodes() if node["Alive"]]
    return sorted(described(each) for each in labels if "cotray.dev/role" in each)


def described(labels: Mapping[str, Any]) -> str:
    return f"{labels.get('cotray.dev/role')} {labels.get('ray.io/market-type')}"


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"nodes left: {nodes()}")
        time.sleep(0.2)


def main(overlay: str) -> None:
    os.environ["RAY_AUTH_MODE"] = "disabled"
    manifests = render(K8S / "overlays" / overlay)
    run = next(run for run in runs(manifests) if run.cluster.name == "RayJob/cotray-run")
    types = {name: scaled_down(kind) for name, kind in node_types(run.cluster).items()}
    with AutoscalingCluster(types, idle_seconds=IDLE_S) as cluster:
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        try:
            seen = scale(run, types["teacher"])
        finally:
            ray.shutdown()
    print(json.dumps(seen))


if __name__ == "__main__":
    main(sys.argv[1])
