"""Which connections the NetworkPolicies let through, evaluated as a network plugin does it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .finding import Finding
from .pods import pods
from .rendering import Manifest, name_of, of_kind


@dataclass(frozen=True)
class Peer:
    """One end of a connection; without a namespace, a pod of ours."""

    labels: dict[str, str]
    namespace: dict[str, str] | None = field(default=None)
    """Labels of its namespace."""


def is_allowed(manifests: Sequence[Manifest], source: Peer, target: dict[str, str], port: int) -> bool:
    """Whether `source` may open a TCP connection to `port` of our pod with the labels `target`."""
    selecting = [
        policy["spec"]
        for policy in of_kind(manifests, "NetworkPolicy")
        if "Ingress" in policy["spec"]["policyTypes"] and _matches(policy["spec"]["podSelector"], target)
    ]
    if not selecting:
        return True
    return any(
        _is_from(rule, source) and _is_to(rule, port)
        for spec in selecting
        for rule in spec.get("ingress") or []
    )


def check_network(manifests: Sequence[Manifest]) -> list[Finding]:
    """Policies that select nobody protect nobody."""
    policies = of_kind(manifests, "NetworkPolicy")
    found = []
    if not any(p["spec"]["podSelector"] == {} and not p["spec"].get("ingress") for p in policies):
        found.append(Finding("policy/network", "NetworkPolicy", "no policy denies what no other allows"))
    every = list(pods(manifests))
    for policy in policies:
        if not any(_matches(policy["spec"]["podSelector"], pod.labels) for pod in every):
            found.append(Finding("policy/network", name_of(policy), "selects no pod"))
    nobody = Peer({}, {"kubernetes.io/metadata.name": "default"})
    for pod in every:
        for name, port in pod.ports().items():
            if is_allowed(manifests, nobody, pod.labels, port):
                found.append(
                    Finding("policy/network", pod.subject, f"port {port} ({name}) is open to everyone")
                )
    return found


def check_disruption_budgets(manifests: Sequence[Manifest]) -> list[Finding]:
    """One covers every head, and no worker, whose node could otherwise never be drained."""
    budgets = [b for b in of_kind(manifests, "PodDisruptionBudget") if b["spec"].get("maxUnavailable") == 0]
    found = []
    for pod in pods(manifests):
        is_covered = any(_matches(budget["spec"]["selector"], pod.labels) for budget in budgets)
        is_head = pod.labels.get("ray.io/node-type") == "head"
        if pod.group is not None and is_covered != is_head:
            message = "no PodDisruptionBudget keeps it" if is_head else "a PodDisruptionBudget keeps its node"
            found.append(Finding("policy/disruption_budgets", pod.subject, message))
    return found


def _is_from(rule: dict[str, Any], source: Peer) -> bool:
    peers = rule.get("from")
    if not peers:
        return True
    for peer in peers:
        if "namespaceSelector" in peer:
            in_namespace = source.namespace is not None and _matches(
                peer["namespaceSelector"], source.namespace
            )
        else:
            in_namespace = source.namespace is None
        if in_namespace and _matches(peer.get("podSelector", {}), source.labels):
            return True
    return False


def _is_to(rule: dict[str, Any], port: int) -> bool:
    return not rule.get("ports") or any(entry["port"] == port for entry in rule["ports"])


def _matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Of selectors with matchLabels, or {} for all."""
    unknown = selector.keys() - {"matchLabels"}
    if unknown:
        raise NotImplementedError(f"selector with {unknown}")
    return selector.get("matchLabels", {}).items() <= labels.items()
