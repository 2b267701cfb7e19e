"""What the Prometheus operator reads: its own model of the objects, and whether they point at our pods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cloudcoil.models.prometheus_operator import v1
from pydantic import ValidationError

from .finding import Finding
from .network import Peer, is_allowed
from .pods import pods
from .rendering import Manifest, name_of, of_kind

GROUP = "monitoring.coreos.com/"
PROMETHEUS = Peer({"app.kubernetes.io/name": "prometheus"}, {"kubernetes.io/metadata.name": "monitoring"})


def check_monitoring_schema(manifest: Manifest) -> list[Finding]:
    """The model passes over keys that it does not know: what it gives back must be what it got."""
    if not manifest["apiVersion"].startswith(GROUP):
        return []
    model: Any = getattr(v1, manifest["kind"])
    try:
        read = model.model_validate(manifest).model_dump(mode="json", by_alias=True, exclude_unset=True)
    except ValidationError as error:
        return [
            Finding("monitoring/schema", name_of(manifest), f"{'.'.join(map(str, e['loc']))}: {e['msg']}")
            for e in error.errors()
        ]
    if read != manifest:
        return [Finding("monitoring/schema", name_of(manifest), f"unknown {_unknown(manifest, read)}")]
    return []


def check_monitors(manifests: Sequence[Manifest]) -> list[Finding]:
    """Each PodMonitor finds pods, their ports by name, and a way through the NetworkPolicies."""
    found = []
    for monitor in of_kind(manifests, "PodMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        chosen = [pod for pod in pods(manifests) if wanted <= pod.labels.items()]
        if not chosen:
            found.append(Finding("monitoring/targets", name_of(monitor), "selects no pod"))
        for endpoint in monitor["spec"]["podMetricsEndpoints"] if chosen else ():
            named = [
                (pod, pod.ports()[endpoint["port"]]) for pod in chosen if endpoint["port"] in pod.ports()
            ]
            if not named:
                message = f"no pod has a port {endpoint['port']}"
                found.append(Finding("monitoring/targets", name_of(monitor), message))
            found += [
                Finding(
                    "monitoring/targets", name_of(monitor), f"Prometheus cannot reach {pod.subject}:{port}"
                )
                for pod, port in named
                if not is_allowed(manifests, PROMETHEUS, pod.labels, port)
            ]
    return found


def _unknown(written: Any, read: Any, path: str = "") -> str:
    """Where the two begin to differ."""
    if isinstance(written, dict) and isinstance(read, dict):
        for key, value in written.items():
            if key not in read or read[key] != value:
                return _unknown(value, read.get(key), f"{path}.{key}")
    if isinstance(written, list) and isinstance(read, list):
        for number, (one, other) in enumerate(zip(written, read, strict=False)):
            if one != other:
                return _unknown(one, other, f"{path}.{number}")
    return path.lstrip(".")
