"""Whether what a configuration asks of Ray fits into the cluster's groups, whose resources and labels are
those that Ray's autoscaler sees."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from cotray.config import RunConfig
from cotray.config.base import PoolConfig

from .configurations import Run, runs
from .finding import Finding
from .rayclusters import ray_clusters
from .rendering import Manifest, name_of
from .translation import node_types

NodeTypes = dict[str, dict[str, Any]]
MARKET = "ray.io/market-type"
_STAGES = {
    "prepare": (),
    "generate": ("teacher",),
    "assess": ("assessing",),
    "train": ("student",),
    "score": ("scoring", "simulator"),
}


@dataclass(frozen=True)
class Need:
    """`count` actors, each with these resources, on nodes with these labels."""

    what: str
    count: int
    resources: dict[str, float]
    selector: dict[str, str] = field(default_factory=dict)
    is_gang: bool = False


def needs_of(config: RunConfig, verb: str) -> Iterator[Need]:
    if verb == "serve":
        return
    sections = _STAGES.get(verb, tuple(name for names in _STAGES.values() for name in names))
    for name in sections:
        section = getattr(config, name)
        if name == "assessing" and not section.measures:  # `run` leaves it out
            continue
        if isinstance(section, PoolConfig):
            for pool in section.all_pools:
                resources = {"CPU": pool.num_cpus, "GPU": pool.num_gpus}
                yield Need(name, pool.replicas.max, resources, pool.label_selector)
        else:
            training = section.training
            resources = {"CPU": training.num_cpus, "GPU": training.num_gpus}
            yield Need(
                f"{name}.training", training.num_workers.max, resources, training.label_selector, is_gang=True
            )


def room_for(need: Need, types: NodeTypes) -> int:
    """How many of them the groups hold at their largest."""
    return sum(
        kind["max_workers"] * _per_node(need.resources, kind["resources"])
        for kind in types.values()
        if need.selector.items() <= kind["labels"].items()
    )


def check_capacity(manifests: Sequence[Manifest]) -> list[Finding]:
    found = []
    for run in runs(manifests):
        types = node_types(run.cluster)
        complaints = _of_serving(run, types) if run.verb == "serve" else _of_job(run, types)
        found += [Finding("policy/capacity", run.cluster.name, message) for message in complaints]
    return found + _priorities(manifests)


def _of_job(run: Run, types: NodeTypes) -> Iterator[str]:
    spec = run.cluster.owner["spec"]
    job = spec.get("jobTemplate", spec)
    driver = {"CPU": float(job.get("entrypointNumCpus", 0)), "GPU": float(job.get("entrypointNumGpus", 0))}
    driver |= json.loads(job.get("entrypointResources") or "{}")
    hosts = {name: kind for name, kind in types.items() if _per_node(driver, kind["resources"])}
    if not driver["CPU"]:
        yield "the driver has no CPU of its own, so it runs on the head"
    if not hosts:
        yield f"no group has room for the driver ({driver})"
    for name, kind in hosts.items():
        if kind["labels"].get(MARKET) == "spot" or kind["resources"].get("GPU"):
            yield f"the driver may run on group {name}, which is spot or has GPUs"
    for need in needs_of(run.config, run.verb):
        room = room_for(need, types)
        if room < need.count:
            wanted = f"{need.count} of {need.resources} on {need.selector}"
            yield f"{need.what} needs {wanted}; there is room for {room}"
        if need.is_gang and any(
            kind["labels"].get(MARKET) == "spot" and need.selector.items() <= kind["labels"].items()
            for kind in types.values()
        ):
            yield f"{need.what} may land on spot nodes: its label_selector does not exclude them"


def _of_serving(run: Run, types: NodeTypes) -> Iterator[str]:
    """Replicas go to any node of theirs. Twice a deployment's minimum runs while it is updated."""
    serving = run.config.serving
    # The ingress and the monitor of LAS take Serve's default of one CPU.
    wanted = {"CPU": 2.0, "GPU": 0.0}
    for name in ("student", "simulator"):
        options = getattr(serving, name)
        each = {"CPU": options.num_cpus, "GPU": options.num_gpus}
        if not any(_per_node(each, kind["resources"]) for kind in types.values()):
            yield f"a replica of serving.{name} ({each}) fits into no group"
        versions = max(1, len(serving.students))
        replicas = versions * max(options.replicas.max, 2 * options.replicas.min)
        wanted = {key: wanted[key] + replicas * each[key] for key in wanted}
    for key, amount in wanted.items():
        there = sum(kind["max_workers"] * kind["resources"].get(key, 0) for kind in types.values())
        if amount > there:
            yield f"serving needs {amount:g} {key} at its largest; the groups have {there:g}"


def _priorities(manifests: Sequence[Manifest]) -> list[Finding]:
    """Of groups for the same role, spot is asked for first."""
    found = []
    for cluster in ray_clusters(manifests):
        for spot in cluster.groups:
            for other in cluster.groups:
                same_role = spot["labels"].get("cotray.dev/role") == other["labels"].get("cotray.dev/role")
                is_spot, is_other = (g["labels"].get(MARKET) == "spot" for g in (spot, other))
                if (
                    same_role
                    and is_spot
                    and not is_other
                    and spot.get("priority", 0) <= other.get("priority", 0)
                ):
                    message = f"group {spot['groupName']} is not asked for before {other['groupName']}"
                    found.append(Finding("policy/capacity", name_of(cluster.owner), message))
    return found


def _per_node(wanted: dict[str, float], there: dict[str, float]) -> int:
    counts = [int(there.get(key, 0) // amount) for key, amount in wanted.items() if amount]
    return min(counts, default=0)
