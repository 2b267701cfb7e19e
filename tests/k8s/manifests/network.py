"""Which connections the NetworkPolicies let in and out, evaluated as a network plugin does it."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .finding import Finding
from .pods import pods
from .rendering import Manifest, name_of, of_kind

METADATA = "169.254.169.254"
"""Where clouds tell a node its credentials."""


@dataclass(frozen=True)
class Peer:
    """One end of a connection; without a namespace, a pod of ours."""

    labels: dict[str, str]
    namespace: dict[str, str] | None = field(default=None)
    """Labels of its namespace."""


def is_allowed(manifests: Sequence[Manifest], source: Peer, target: dict[str, str], port: int) -> bool:
    """Whether `source` may open a TCP connection to `port` of our pod with the labels `target`."""
    return _permits(manifests, "Ingress", "from", target, source, port, "TCP")


def may_leave(
    manifests: Sequence[Manifest],
    source: dict[str, str],
    target: Peer | str,
    port: int,
    protocol: str = "TCP",
) -> bool:
    """Whether our pod with the labels `source` may open a connection to a pod, or to an IP address."""
    return _permits(manifests, "Egress", "to", source, target, port, protocol)


def _permits(
    manifests: Sequence[Manifest],
    kind: str,
    side: str,
    labels: dict[str, str],
    other: Peer | str,
    port: int,
    protocol: str,
) -> bool:
    """Whether the policies of a kind let our pod with these labels and `other`, who stands in a rule under
    `side`, be connected; everybody may where none selects the pod."""
    selecting = [
        policy["spec"]
        for policy in of_kind(manifests, "NetworkPolicy")
        if kind in types_of(policy["spec"]) and _matches(policy["spec"]["podSelector"], labels)
    ]
    if not selecting:
        return True
    return any(
        _is_among(rule.get(side), other) and _is_to(rule, port, protocol)
        for spec in selecting
        for rule in spec.get(kind.lower()) or []
    )


def types_of(policy: dict[str, Any]) -> list[str]:
    """As the API server fills it in: always Ingress, and Egress where there are rules for it."""
    default = ["Ingress", "Egress"] if policy.get("egress") else ["Ingress"]
    return policy.get("policyTypes") or default


def check_network(manifests: Sequence[Manifest]) -> list[Finding]:
    """Policies that select nobody protect nobody."""
    policies = of_kind(manifests, "NetworkPolicy")
    found = []
    for kind, rules in (("Ingress", "ingress"), ("Egress", "egress")):
        specs = [policy["spec"] for policy in policies if kind in types_of(policy["spec"])]
        if not any(spec["podSelector"] == {} and not spec.get(rules) for spec in specs):
            words = f"no policy denies what no other allows ({kind})"
            found.append(Finding("policy/network", "NetworkPolicy", words))
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
        if may_leave(manifests, pod.labels, METADATA, 80):
            words = f"may ask {METADATA} for the node's credentials"
            found.append(Finding("policy/network", pod.subject, words))
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


def _is_among(peers: Sequence[dict[str, Any]] | None, other: Peer | str) -> bool:
    """Without peers, everybody is."""
    return not peers or any(_is_peer(peer, other) for peer in peers)


def _is_peer(peer: dict[str, Any], other: Peer | str) -> bool:
    if "ipBlock" in peer:
        block = peer["ipBlock"]
        return (
            isinstance(other, str)
            and _is_in(other, block["cidr"])
            and not any(_is_in(other, each) for each in block.get("except") or [])
        )
    if isinstance(other, str):
        return False
    if "namespaceSelector" in peer:
        in_namespace = other.namespace is not None and _matches(peer["namespaceSelector"], other.namespace)
    else:
        in_namespace = other.namespace is None
    return in_namespace and _matches(peer.get("podSelector", {}), other.labels)


def _is_in(address: str, block: str) -> bool:
    return ipaddress.ip_address(address) in ipaddress.ip_network(block)


def _is_to(rule: dict[str, Any], port: int, protocol: str) -> bool:
    """Without a port, all of a protocol; without ports, all."""
    entries = rule.get("ports")
    return not entries or any(
        entry.get("port", port) == port and entry.get("protocol", "TCP") == protocol for entry in entries
    )


def _matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Of selectors with matchLabels, or {} for all."""
    unknown = selector.keys() - {"matchLabels"}
    if unknown:
        raise NotImplementedError(f"selector with {unknown}")
    return selector.get("matchLabels", {}).items() <= labels.items()
