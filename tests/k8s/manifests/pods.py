"""The pods that the objects would make."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .rayclusters import ray_clusters
from .rendering import Manifest, name_of

WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "Job")
AUTOSCALER = "autoscaler"


@dataclass(frozen=True)
class Pod:
    """`labels` are those at run time: the template's, the group's and the operator's."""

    subject: str
    labels: dict[str, str]
    spec: dict[str, Any]
    group: dict[str, Any] | None = None
    """Of a Ray pod."""
    ray_version: tuple[int, ...] = ()
    claim_templates: tuple[str, ...] = ()
    """Volumes that a StatefulSet makes for its pod."""

    @property
    def containers(self) -> list[dict[str, Any]]:
        return self.spec.get("containers") or []

    @property
    def all_containers(self) -> list[dict[str, Any]]:
        return [*self.containers, *(self.spec.get("initContainers") or [])]

    def ports(self) -> dict[str, int]:
        return {
            port["name"]: port["containerPort"]
            for container in self.containers
            for port in container.get("ports") or []
        }


def pods(manifests: Sequence[Manifest]) -> Iterator[Pod]:
    for manifest in manifests:
        if manifest["kind"] in WORKLOADS:
            template = manifest["spec"]["template"]
            claims = manifest["spec"].get("volumeClaimTemplates") or []
            yield Pod(
                name_of(manifest),
                template["metadata"].get("labels", {}),
                template["spec"],
                claim_templates=tuple(claim["metadata"]["name"] for claim in claims),
            )
    for cluster in ray_clusters(manifests):
        for name, group in cluster.named_groups:
            template = group["template"]
            is_head = group is cluster.head
            labels = {
                **template.get("metadata", {}).get("labels", {}),
                **group.get("labels", {}),
                "ray.io/node-type": "head" if is_head else "worker",
                "ray.io/group": "headgroup" if is_head else name,
            }
            spec = template["spec"]
            if is_head and cluster.has_autoscaler:
                spec = {**spec, "containers": [*spec["containers"], _autoscaler(cluster.spec, spec)]}
            yield Pod(f"{cluster.name} {name}", labels, spec, group, cluster.version)


def _autoscaler(spec: dict[str, Any], head: dict[str, Any]) -> dict[str, Any]:
    """The container that the operator puts beside the head's."""
    options = spec.get("autoscalerOptions", {})
    kept = ("resources", "securityContext", "volumeMounts", "env", "envFrom")
    return {
        "name": AUTOSCALER,
        "image": options.get("image") or head["containers"][0].get("image", ""),
        **{key: options[key] for key in kept if key in options},
    }
