"""How Ray clusters and jobs of this project must be written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from .finding import Finding
from .rayclusters import RayCluster, ray_clusters
from .rendering import Manifest


def token_authentication_is_on(cluster: RayCluster) -> Iterator[str]:
    if (cluster.spec.get("authOptions") or {}).get("mode") != "token":
        yield "Ray's token authentication is off"


def groups_scale_to_zero(cluster: RayCluster) -> Iterator[str]:
    """All but the replicas that wait for requests."""
    if not (cluster.has_autoscaler and cluster.has_autoscaler_v2):
        yield "autoscaler v2 is off"
    for group in cluster.groups:
        is_serving = (group.get("labels") or {}).get("cotray.dev/role") == "serving"
        if not is_serving and (group.get("minReplicas") or group.get("replicas")):
            yield f"group {group['groupName']} does not scale to zero"


def roles_are_named(cluster: RayCluster) -> Iterator[str]:
    """Configurations select nodes by these labels."""
    for name, group in cluster.named_groups:
        labels = group.get("labels") or {}
        if not labels.get("cotray.dev/role") or labels.get("ray.io/market-type") not in ("spot", "on-demand"):
            yield f"group {name} has no cotray.dev/role or no ray.io/market-type"


def jobs_end_and_are_cleaned_up(cluster: RayCluster) -> Iterator[str]:
    """Whatever happens: retries, deadlines, and no cluster that stays."""
    if cluster.kind not in ("RayJob", "RayCronJob"):
        return
    spec = cluster.owner["spec"]
    job = spec.get("jobTemplate", spec)
    for key in ("backoffLimit", "activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        if not job.get(key):
            yield f"the job has no {key}"
    rules = (job.get("deletionStrategy") or {}).get("deletionRules") or []
    deleted = {
        rule["condition"].get("jobStatus") or rule["condition"].get("jobDeploymentStatus")
        for rule in rules
        if rule["policy"] in ("DeleteCluster", "DeleteSelf")
    }
    if not job.get("shutdownAfterJobFinishes") and not {"SUCCEEDED", "FAILED", "Failed"} <= deleted:
        yield "the job's cluster stays when it succeeded, failed or could not start"


RULES: tuple[Callable[[RayCluster], Iterator[str]], ...] = (
    token_authentication_is_on,
    groups_scale_to_zero,
    roles_are_named,
    jobs_end_and_are_cleaned_up,
)


def check_clusters(manifests: Sequence[Manifest]) -> list[Finding]:
    return [
        Finding(f"policy/{rule.__name__}", cluster.name, message)
        for cluster in ray_clusters(manifests)
        for rule in RULES
        for message in rule(cluster)
    ]
