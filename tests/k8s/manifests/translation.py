"""A RayCluster as Ray's autoscaler sees it, by the code that runs beside the head."""

from __future__ import annotations

import copy
import json
from functools import cache
from typing import Any

from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

from .finding import Finding
from .rayclusters import RayCluster

HEAD = "headgroup"


def node_types(cluster: RayCluster) -> dict[str, dict[str, Any]]:
    """Worker groups by name: resources, labels, min_workers, max_workers, priority, idle_timeout_s.

    Raises whatever the autoscaler would stop with.
    """
    types = copy.deepcopy(_derive(json.dumps(cluster.spec, sort_keys=True)))
    types.pop(HEAD)
    return types


@cache
def _derive(spec: str) -> dict[str, dict[str, Any]]:
    resource = {"metadata": {"name": "cotray", "namespace": "cotray"}, "spec": json.loads(spec)}
    return _derive_autoscaling_config_from_ray_cr(resource)["available_node_types"]


def check_translation(cluster: RayCluster) -> list[Finding]:
    try:
        types = node_types(cluster)
    except Exception as error:
        return [Finding("translation", cluster.name, f"{type(error).__name__}: {error}")]
    names = [group["groupName"] for group in cluster.groups]
    return [
        Finding("translation", cluster.name, f"group {name} is there twice; the autoscaler sees one")
        for name in types
        if names.count(name) > 1
    ]
