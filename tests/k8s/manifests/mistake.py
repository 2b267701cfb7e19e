"""A mistake that a test plants into rendered manifests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .rendering import Manifest

Objects = dict[str, Manifest]
"""By Kind/name."""


@dataclass(frozen=True)
class Mistake:
    """`check` must report it about `subject` (or a part of it), in a text that contains `words`."""

    name: str
    check: str
    subject: str
    words: str
    plant: Callable[[Objects], None]
    """Changes the objects in place."""


def put(*path: str | int, to: Any) -> Callable[[Objects], None]:
    """Sets what is at `path`, which begins with an object's Kind/name; None takes it away, `-` at the end
    is the place after a list's last."""

    def plant(objects: Objects) -> None:
        node: Any = objects
        for key in path[:-1]:
            node = node.setdefault(key, {}) if isinstance(node, dict) else node[key]
        if to is None:
            del node[path[-1]]
        elif path[-1] == "-":
            node.append(to)
        else:
            node[path[-1]] = to

    return plant


def replace(subject: str, *path: str, before: str, after: str) -> Callable[[Objects], None]:
    """Other words in a text. `subject` is the beginning of Kind/name."""

    def plant(objects: Objects) -> None:
        node = next(each for name, each in objects.items() if name.startswith(subject))
        for key in path[:-1]:
            node = node[key]
        assert before in node[path[-1]]
        node[path[-1]] = node[path[-1]].replace(before, after)

    return plant


# Where things are in the rendered overlay `spot`.
CLUSTER, JOB, SERVICE = "RayCluster/cotray", "RayJob/cotray-run", "RayService/cotray-student"
RUN = (JOB, "spec")
SPEC = (*RUN, "rayClusterSpec")
HEAD = (*SPEC, "headGroupSpec")
TEACHER = (*SPEC, "workerGroupSpecs", 1)
SPOT_TEACHER = (*SPEC, "workerGroupSpecs", 3)
POD = (*TEACHER, "template", "spec")
CONTAINER = (*POD, "containers", 0)
SERVED = (SERVICE, "spec", "rayClusterConfig")
REDIS_POD = ("StatefulSet/redis", "spec", "template", "spec")
BUDGET = "PodDisruptionBudget/cotray-head"
