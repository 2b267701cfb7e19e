"""How pods of this project must be written; each rule takes a pod and yields its complaints."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal

from ray.autoscaler._private.kuberay.utils import parse_quantity

from .finding import Finding
from .pods import AUTOSCALER, Pod, pods
from .rendering import Manifest

SPOT = "cotray.dev/capacity"
GPU = "nvidia.com/gpu"
_PROBED_BY_OPERATOR = (2, 53)
_EXACT_VERSION = re.compile(r"v?\d+\.\d+\.\d+([-.].+)?|RELEASE\.\d{4}-.+")


def images_have_exact_versions(pod: Pod) -> Iterator[str]:
    """Or digests. `latest`, `7` or no tag may be another image tomorrow."""
    for container in pod.all_containers:
        image = container.get("image", "")
        tag = image.rpartition("/")[2].partition(":")[2]
        if "@sha256:" not in image and not _EXACT_VERSION.fullmatch(tag):
            yield f"container {container['name']} has image '{image}' without an exact version"


def containers_have_requests_and_limits(pod: Pod) -> Iterator[str]:
    """Memory and GPUs are not overcommitted, and what is spilled to the disk is counted."""
    for container in pod.all_containers:
        resources = container.get("resources") or {}
        requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
        for name in ("cpu", "memory", "ephemeral-storage"):
            if name not in requests or name not in limits:
                yield f"container {container['name']} has no request or no limit of {name}"
        for name in {"memory", GPU} & (requests.keys() | limits.keys()):
            if _quantity(requests.get(name)) != _quantity(limits.get(name)):
                yield f"container {container['name']} requests other {name} than it is limited to"


def pods_are_not_root(pod: Pod) -> Iterator[str]:
    context = pod.spec.get("securityContext") or {}
    if context.get("runAsNonRoot") is not True or not context.get("runAsUser"):
        yield "the pod may run as root (runAsNonRoot, runAsUser)"
    for container in pod.all_containers:
        if (container.get("securityContext") or {}).get("runAsUser") == 0:
            yield f"container {container['name']} runs as root"


def pods_have_no_privileges(pod: Pod) -> Iterator[str]:
    """What Pod Security `restricted` asks for, and a root file system that nothing can be written to."""
    context = pod.spec.get("securityContext") or {}
    if (context.get("seccompProfile") or {}).get("type") != "RuntimeDefault":
        yield "the pod has no seccompProfile RuntimeDefault"
    for container in pod.all_containers:
        security, name = container.get("securityContext") or {}, container["name"]
        if security.get("privileged") or security.get("allowPrivilegeEscalation") is not False:
            yield f"container {name} may gain privileges"
        capabilities = security.get("capabilities") or {}
        if capabilities.get("drop") != ["ALL"] or capabilities.get("add"):
            yield f"container {name} does not drop all capabilities"
        if security.get("readOnlyRootFilesystem") is not True:
            yield f"container {name} can write to its root file system"


def pods_stay_inside(pod: Pod) -> Iterator[str]:
    """No network, processes or folders of the node."""
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.spec.get(key):
            yield f"the pod has {key}"
    for volume in pod.spec.get("volumes") or []:
        if "hostPath" in volume:
            yield f"volume {volume['name']} is a hostPath"
    for container in pod.all_containers:
        if any("hostPort" in port for port in container.get("ports") or []):
            yield f"container {container['name']} has a hostPort"


def tokens_are_mounted_where_needed(pod: Pod) -> Iterator[str]:
    """The Kubernetes API is called by autoscalers alone."""
    if pod.spec.get("automountServiceAccountToken") is not False:
        yield "the service account's token is mounted into every container"
    tokens = {
        volume["name"]
        for volume in pod.spec.get("volumes") or []
        if any("serviceAccountToken" in source for source in volume.get("projected", {}).get("sources", []))
    }
    for container in pod.all_containers:
        mounted = tokens & {mount["name"] for mount in container.get("volumeMounts") or []}
        if mounted and container["name"] != AUTOSCALER:
            yield f"container {container['name']} has the service account's token"
        if not mounted and container["name"] == AUTOSCALER:
            yield "the autoscaler has no service account's token"


def containers_have_probes(pod: Pod) -> Iterator[str]:
    """Ray's containers get theirs from the operator, one HTTP probe from Ray 2.53 on."""
    is_ray = pod.group is not None
    if is_ray and pod.ray_version < _PROBED_BY_OPERATOR:
        yield "rayVersion must be 2.53.0 or later for the operator's HTTP probes"
    for container in pod.containers[1 if is_ray else 0 :]:
        if container["name"] != AUTOSCALER and not {"livenessProbe", "readinessProbe"} <= container.keys():
            yield f"container {container['name']} has no livenessProbe or no readinessProbe"


def mounts_name_volumes(pod: Pod) -> Iterator[str]:
    names = {volume["name"] for volume in pod.spec.get("volumes") or []} | set(pod.claim_templates)
    for container in pod.all_containers:
        for mount in container.get("volumeMounts") or []:
            if mount["name"] not in names:
                yield f"container {container['name']} mounts {mount['name']}, which is no volume"


def ray_nodes_have_time_to_drain(pod: Pod) -> Iterator[str]:
    """SIGTERM drains the node for so long; then Kubernetes must not have killed it yet."""
    if pod.group is None:
        return
    env = {entry["name"]: entry.get("value", "") for entry in pod.containers[0].get("env") or []}
    drain = int(env.get("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", 30))
    grace = pod.spec.get("terminationGracePeriodSeconds", 30)
    if grace <= drain:
        yield f"terminationGracePeriodSeconds {grace} does not exceed Ray's drain of {drain} s"


def heads_do_no_work(pod: Pod) -> Iterator[str]:
    """A head that runs out of memory takes its cluster along."""
    if pod.labels.get("ray.io/node-type") != "head":
        return
    if ((pod.group or {}).get("rayStartParams") or {}).get("num-cpus") != "0":
        yield 'the head takes work: rayStartParams has no num-cpus "0"'


def gpu_pods_reach_gpu_nodes(pod: Pod) -> Iterator[str]:
    """By the accelerator's name, and through the taint that keeps others away."""
    wants = any(GPU in ((c.get("resources") or {}).get("limits") or {}) for c in pod.containers)
    tolerated = {toleration.get("key") for toleration in pod.spec.get("tolerations") or []}
    selected = any("gpu" in key or "accelerator" in key for key in pod.spec.get("nodeSelector") or {})
    if wants and not (GPU in tolerated and selected):
        yield f"the pod asks for {GPU} without its toleration or without a nodeSelector by accelerator"
    if not wants and GPU in tolerated:
        yield f"the pod tolerates {GPU} and asks for none"


def spot_is_for_groups_that_say_so(pod: Pod) -> Iterator[str]:
    """The label that Ray schedules by and the nodes that Kubernetes takes agree."""
    is_spot = pod.labels.get("ray.io/market-type") == "spot"
    selects = (pod.spec.get("nodeSelector") or {}).get(SPOT) == "spot"
    tolerates = any(t.get("key") == SPOT for t in pod.spec.get("tolerations") or [])
    if not is_spot == selects == tolerates:
        yield f"market type, nodeSelector and toleration of {SPOT} do not agree"


RULES: tuple[Callable[[Pod], Iterator[str]], ...] = (
    images_have_exact_versions,
    containers_have_requests_and_limits,
    pods_are_not_root,
    pods_have_no_privileges,
    pods_stay_inside,
    tokens_are_mounted_where_needed,
    containers_have_probes,
    mounts_name_volumes,
    ray_nodes_have_time_to_drain,
    heads_do_no_work,
    gpu_pods_reach_gpu_nodes,
    spot_is_for_groups_that_say_so,
)


def check_pods(manifests: Sequence[Manifest]) -> list[Finding]:
    return [
        Finding(f"policy/{rule.__name__}", pod.subject, message)
        for pod in pods(manifests)
        for rule in RULES
        for message in rule(pod)
    ]


def _quantity(text: str | None) -> Decimal | None:
    return None if text is None else parse_quantity(text)
