"""The Ray clusters inside KubeRay's objects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .rendering import Manifest, name_of

_PLACES = {
    "RayCluster": ("spec",),
    "RayJob": ("spec", "rayClusterSpec"),
    "RayService": ("spec", "rayClusterConfig"),
    "RayCronJob": ("spec", "jobTemplate", "rayClusterSpec"),
}


@dataclass(frozen=True)
class RayCluster:
    owner: Manifest
    spec: dict[str, Any]

    @property
    def name(self) -> str:
        return name_of(self.owner)

    @property
    def kind(self) -> str:
        return self.owner["kind"]

    @property
    def head(self) -> dict[str, Any]:
        return self.spec["headGroupSpec"]

    @property
    def groups(self) -> list[dict[str, Any]]:
        return self.spec.get("workerGroupSpecs") or []

    @property
    def named_groups(self) -> list[tuple[str, dict[str, Any]]]:
        """The head, as `head`, and the worker groups."""
        return [("head", self.head), *((group["groupName"], group) for group in self.groups)]

    @property
    def version(self) -> tuple[int, ...]:
        """Of Ray; () where none is given or it cannot be read."""
        try:
            return tuple(int(part) for part in self.spec["rayVersion"].split("."))
        except (KeyError, ValueError):
            return ()

    @property
    def has_autoscaler(self) -> bool:
        return bool(self.spec.get("enableInTreeAutoscaling"))

    @property
    def has_autoscaler_v2(self) -> bool:
        """As the operator sees it: Ray's own default does not count."""
        return self.spec.get("autoscalerOptions", {}).get("version") == "v2"


def ray_clusters(manifests: Sequence[Manifest]) -> Iterator[RayCluster]:
    """One per object that carries a cluster, written in full."""
    for manifest in manifests:
        node: Any = manifest
        for key in _PLACES.get(manifest["kind"], ("",)):
            node = node.get(key) if isinstance(node, dict) else None
        if isinstance(node, dict):
            yield RayCluster(manifest, node)


def env_names(container: dict[str, Any]) -> set[str]:
    return {entry["name"] for entry in container.get("env") or []}
