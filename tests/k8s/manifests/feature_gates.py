"""The operator's feature gates: it refuses what needs one that is off, which the CRD would take."""

from __future__ import annotations

from functools import cache

import yaml

from .finding import Finding
from .rayclusters import ray_clusters
from .rendering import K8S, Manifest, name_of

# On unless switched off, in KubeRay 1.7; all others are off unless switched on.
_BETA = {
    "RayClusterStatusConditions",
    "RayJobDeletionPolicy",
    "RayMultiHostIndexing",
    "RayServiceIncrementalUpgrade",
}
_OF_CLUSTER = {
    "networkPolicy": "RayClusterNetworkPolicy",
    "tlsOptions": "RayClusterMTLS",
    "historyServerOptions": "RayClusterHistoryServer",
}


@cache
def configured_gates() -> frozenset[str]:
    """What is on with k8s/operator/values.yaml."""
    values = yaml.safe_load((K8S / "operator" / "values.yaml").read_text())
    switched = {gate["name"]: gate["enabled"] for gate in values["featureGates"]}
    on = {name for name, enabled in switched.items() if enabled}
    return frozenset(on | {name for name in _BETA if switched.get(name, True)})


def gates_of(manifest: Manifest) -> set[str]:
    """What an object needs."""
    needed = set()
    spec = manifest.get("spec") or {}
    if manifest["kind"] == "RayCronJob":
        needed.add("RayCronJob")
        spec = spec.get("jobTemplate", {})
    if "deletionStrategy" in spec:
        needed.add("RayJobDeletionPolicy")
    if (spec.get("upgradeStrategy") or {}).get("type") == "NewClusterWithIncrementalUpgrade":
        needed.add("RayServiceIncrementalUpgrade")
    for cluster in ray_clusters([manifest]):
        needed |= {gate for key, gate in _OF_CLUSTER.items() if key in cluster.spec}
        if (cluster.spec.get("gcsFaultToleranceOptions") or {}).get("backend") == "rocksdb":
            needed.add("GCSFaultToleranceEmbeddedStorage")
    return needed


def check_gates(manifest: Manifest, enabled: frozenset[str]) -> list[Finding]:
    return [
        Finding(
            "operator/feature_gates",
            name_of(manifest),
            f"needs the operator's feature gate {gate}, which is off",
        )
        for gate in sorted(gates_of(manifest) - enabled)
    ]
