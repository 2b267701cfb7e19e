"""What KubeRay's operator refuses in a Ray cluster although the CRD allows it.

Ported from ray-operator/controllers/ray/utils/validation.go of KubeRay 1.7; each rule yields its complaints.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from .finding import Finding
from .rayclusters import RayCluster, env_names

_RESOURCE_PARAMS = ("num-cpus", "num-gpus", "memory", "resources")
_LABEL_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LABEL_PREFIX = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_DNS_1123 = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_V2_ENV = "RAY_enable_autoscaler_v2"


def groups_have_containers(cluster: RayCluster) -> Iterator[str]:
    """The Ray container is containers[0]."""
    for name, group in cluster.named_groups:
        if not group["template"].get("spec", {}).get("containers"):
            yield f"group {name} has no container"


def resources_are_given_once(cluster: RayCluster) -> Iterator[str]:
    """`resources` of a group and of rayStartParams would contradict each other."""
    for name, group in cluster.named_groups:
        params = group.get("rayStartParams") or {}
        if group.get("resources") and any(params.get(key) for key in _RESOURCE_PARAMS):
            yield f"group {name} has resources and rayStartParams with resources"


def labels_are_fields_and_well_formed(cluster: RayCluster) -> Iterator[str]:
    """Group labels become labels of Ray nodes and of pods, so Kubernetes' syntax holds."""
    for name, group in cluster.named_groups:
        if "labels" in (group.get("rayStartParams") or {}):
            yield f"group {name} has labels in rayStartParams; they belong into the field labels"
        for key, value in (group.get("labels") or {}).items():
            prefix, _, leaf = key.rpartition("/")
            if not _LABEL_NAME.fullmatch(leaf) or (prefix and not _LABEL_PREFIX.fullmatch(prefix)):
                yield f"group {name} has an invalid label key {key}"
            if value and not _LABEL_NAME.fullmatch(value):
                yield f"group {name} has an invalid label value {value}"


def replicas_are_a_range(cluster: RayCluster) -> Iterator[str]:
    """0 <= min <= max; both given where nothing scales the group."""
    for group in cluster.groups:
        low, high = group.get("minReplicas"), group.get("maxReplicas")
        if not cluster.has_autoscaler and (low is None or high is None):
            yield f"group {group['groupName']} needs minReplicas and maxReplicas without an autoscaler"
        if (low or 0) < 0 or (high or 0) < 0 or (low is not None and high is not None and low > high):
            yield f"group {group['groupName']} has minReplicas {low}, maxReplicas {high}"


def group_timeouts_and_priorities_need_autoscaler_v2(cluster: RayCluster) -> Iterator[str]:
    """v1 knows neither; that Ray's default is v2 does not count."""
    for group in cluster.groups:
        if (group.get("idleTimeoutSeconds") or 0) < 0:
            yield f"group {group['groupName']} has a negative idleTimeoutSeconds"
        if cluster.has_autoscaler_v2:
            continue
        if group.get("idleTimeoutSeconds") is not None:
            yield f"group {group['groupName']} has idleTimeoutSeconds without autoscalerOptions.version: v2"
        if group.get("priority"):
            yield f"group {group['groupName']} has a priority without autoscalerOptions.version: v2"


def priorities_need_ray_2_56(cluster: RayCluster) -> Iterator[str]:
    """Older autoscalers ignore them."""
    for group in cluster.groups:
        if group.get("priority") and cluster.version < (2, 56):
            yield f"group {group['groupName']} has a priority; rayVersion must be 2.56.0 or later"


def pods_of_autoscaler_v2_never_restart(cluster: RayCluster) -> Iterator[str]:
    """A node that comes back under its old name confuses the autoscaler."""
    for name, group in cluster.named_groups:
        policy = group["template"].get("spec", {}).get("restartPolicy", "Never")
        if cluster.has_autoscaler and cluster.has_autoscaler_v2 and policy != "Never":
            yield f"group {name} has restartPolicy {policy}; with autoscaler v2 it is Never"


def autoscaler_is_configured_once(cluster: RayCluster) -> Iterator[str]:
    """Field or environment variable, not both, and no variable for an autoscaler that is off."""
    options = cluster.spec.get("autoscalerOptions") or {}
    has_variable = _V2_ENV in _head_env(cluster)
    if has_variable and cluster.has_autoscaler and options.get("version"):
        yield f"autoscalerOptions.version and {_V2_ENV} are both set"
    if has_variable and not cluster.has_autoscaler:
        yield f"{_V2_ENV} is set while enableInTreeAutoscaling is off"
    if "KUBERAY_GEN_AUTOSCALER_START_CMD" in {entry["name"] for entry in options.get("env") or []}:
        yield "autoscalerOptions.env has KUBERAY_GEN_AUTOSCALER_START_CMD, which is the operator's"
    if (options.get("idleTimeoutSeconds") or 0) < 0:
        yield "autoscalerOptions.idleTimeoutSeconds is negative"


def suspended_groups_need_no_autoscaler(cluster: RayCluster) -> Iterator[str]:
    """The autoscaler would bring the pods back."""
    for group in cluster.groups:
        if group.get("suspend") and cluster.has_autoscaler:
            yield f"group {group['groupName']} is suspended while the autoscaler is on"


def authentication_is_spelled_out(cluster: RayCluster) -> Iterator[str]:
    """authOptions without `mode: token` is no authentication, whatever else is set in it."""
    options = cluster.spec.get("authOptions")
    if options is None:
        return
    if options.get("mode") != "token":
        yield "authOptions without mode: token leaves authentication off"
    elif cluster.version < (2, 52):
        yield "authOptions.mode token needs rayVersion 2.52.0 or later"
    if options.get("enableK8sTokenAuth"):
        if cluster.kind != "RayCluster":
            yield f"enableK8sTokenAuth is not supported for {cluster.kind}"
        if cluster.version < (2, 55) or options.get("secretName"):
            yield "enableK8sTokenAuth needs rayVersion 2.55.0 or later and no secretName"


def gcs_fault_tolerance_has_one_source(cluster: RayCluster) -> Iterator[str]:
    """Options, annotations and environment variables exclude each other."""
    options = cluster.spec.get("gcsFaultToleranceOptions")
    env = _head_env(cluster)
    annotations = cluster.owner["metadata"].get("annotations") or {}
    params = cluster.head.get("rayStartParams") or {}
    if options is None:
        if "RAY_REDIS_ADDRESS" in env and annotations.get("ray.io/ft-enabled", "").lower() != "true":
            yield "RAY_REDIS_ADDRESS is set without gcsFaultToleranceOptions"
        return
    if annotations.get("ray.io/ft-enabled") or annotations.get("ray.io/external-storage-namespace"):
        yield "gcsFaultToleranceOptions and its annotations are both set"
    if params.get("redis-password") or env & {"REDIS_PASSWORD", "RAY_REDIS_ADDRESS"}:
        yield "gcsFaultToleranceOptions and Redis settings of the head are both set"
    if params.get("redis-username") or "REDIS_USERNAME" in env:
        yield "the Redis user belongs into gcsFaultToleranceOptions.redisUsername"
    if options.get("backend", "redis") == "redis" and options.get("storage"):
        yield "gcsFaultToleranceOptions.storage is for the backend rocksdb"


def upgrade_strategy_is_for_clusters_of_their_own(cluster: RayCluster) -> Iterator[str]:
    """Jobs and services replace their clusters themselves."""
    if cluster.spec.get("upgradeStrategy") and cluster.kind != "RayCluster":
        yield f"upgradeStrategy inside a {cluster.kind}"


def group_names_fit_network_policies(cluster: RayCluster) -> Iterator[str]:
    """With spec.networkPolicy they are part of its policies' names, and its rules must name real groups."""
    policy = cluster.spec.get("networkPolicy")
    if policy is None:
        return
    names = {group["groupName"] for group in cluster.groups}
    for name in names:
        if not _DNS_1123.fullmatch(name):
            yield f"group {name} is no DNS-1123 label, as networkPolicy needs"
    for group in policy.get("workerGroups") or []:
        if group["groupName"] not in names:
            yield f"networkPolicy has rules for an unknown group {group['groupName']}"


RULES: tuple[Callable[[RayCluster], Iterator[str]], ...] = (
    groups_have_containers,
    resources_are_given_once,
    labels_are_fields_and_well_formed,
    replicas_are_a_range,
    group_timeouts_and_priorities_need_autoscaler_v2,
    priorities_need_ray_2_56,
    pods_of_autoscaler_v2_never_restart,
    autoscaler_is_configured_once,
    suspended_groups_need_no_autoscaler,
    authentication_is_spelled_out,
    gcs_fault_tolerance_has_one_source,
    upgrade_strategy_is_for_clusters_of_their_own,
    group_names_fit_network_policies,
)


def check_operator_on_cluster(cluster: RayCluster) -> list[Finding]:
    return [
        Finding(f"operator/{rule.__name__}", cluster.name, message)
        for rule in RULES
        for message in rule(cluster)
    ]


def _head_env(cluster: RayCluster) -> set[str]:
    containers = cluster.head["template"].get("spec", {}).get("containers") or [{}]
    return env_names(containers[0])
