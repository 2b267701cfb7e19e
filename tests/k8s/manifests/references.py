"""Whether what an object names is there: rendered with it, or listed as the user's to provide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from .finding import Finding
from .pods import Pod, pods
from .rayclusters import ray_clusters
from .rendering import Manifest, name_of, of_kind

PROVIDED = {
    # By the user; the overlay `local` has its own.
    ("Secret", "cotray-s3"),
    ("Secret", "cotray-hf"),
    ("Secret", "cotray-api-keys"),
    ("Secret", "cotray-redis"),
    ("Secret", "cotray-tls"),
    # By Kubernetes.
    ("ConfigMap", "kube-root-ca.crt"),
}
THROW_AWAY = "cotray.dev/throw-away-secrets"
"""An annotation on the namespace where secrets may lie in the open."""


def check_references(manifests: Sequence[Manifest]) -> list[Finding]:
    defined = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests}
    found = [
        Finding("policy/references", subject, f"{kind} {name} is neither rendered nor to be provided")
        for subject, kind, name in _references(manifests)
        if (kind, name) not in defined | PROVIDED
    ]
    found += [
        Finding("policy/references", subject, message) for subject, message in _wrong_services(manifests)
    ]
    return found + _inline_secrets(manifests)


def _references(manifests: Sequence[Manifest]) -> Iterator[tuple[str, str, str]]:
    """(subject, kind, name)"""
    for pod in pods(manifests):
        yield from ((pod.subject, kind, name) for kind, name in _of_pod(pod))
    for cluster in ray_clusters(manifests):
        password = (cluster.spec.get("gcsFaultToleranceOptions") or {}).get("redisPassword") or {}
        if "secretKeyRef" in password.get("valueFrom", {}):
            yield cluster.name, "Secret", password["valueFrom"]["secretKeyRef"]["name"]
        secret = (cluster.spec.get("authOptions") or {}).get("secretName")
        if secret:
            yield cluster.name, "Secret", secret
    for ingress in of_kind(manifests, "Ingress"):
        for tls in ingress["spec"].get("tls") or []:
            yield name_of(ingress), "Secret", tls["secretName"]
    for binding in of_kind(manifests, "RoleBinding"):
        yield name_of(binding), binding["roleRef"]["kind"], binding["roleRef"]["name"]
        for subject in binding["subjects"]:
            yield name_of(binding), subject["kind"], subject["name"]


def _of_pod(pod: Pod) -> Iterator[tuple[str, str]]:
    yield from _named(pod.spec, "serviceAccountName", "ServiceAccount")
    yield from _named(pod.spec, "priorityClassName", "PriorityClass")
    for volume in pod.spec.get("volumes") or []:
        for source in [volume, *volume.get("projected", {}).get("sources", [])]:
            yield from _named(source.get("configMap"), "name", "ConfigMap")
            yield from _named(source.get("secret"), "secretName", "Secret")
            yield from _named(source.get("persistentVolumeClaim"), "claimName", "PersistentVolumeClaim")
    for container in pod.all_containers:
        for source in container.get("envFrom") or []:
            yield from _named(source.get("configMapRef"), "name", "ConfigMap")
            yield from _named(source.get("secretRef"), "name", "Secret")
        for entry in container.get("env") or []:
            source = entry.get("valueFrom") or {}
            yield from _named(source.get("configMapKeyRef"), "name", "ConfigMap")
            yield from _named(source.get("secretKeyRef"), "name", "Secret")


def _named(node: dict[str, Any] | None, key: str, kind: str) -> Iterator[tuple[str, str]]:
    if node and node.get(key):
        yield kind, node[key]


def _wrong_services(manifests: Sequence[Manifest]) -> Iterator[tuple[str, str]]:
    """(subject, complaint) about Services that are named and not there, or that lead nowhere."""
    served = {service["metadata"]["name"]: service for service in of_kind(manifests, "Service")}
    ports = {name: {port["port"] for port in service["spec"]["ports"]} for name, service in served.items()}
    # The operator's.
    ports |= {
        f"{service['metadata']['name']}-serve-svc": {8000} for service in of_kind(manifests, "RayService")
    }
    for subject, host, port in _addresses(manifests):
        if port not in ports.get(host, set()):
            yield subject, f"no Service {host} with port {port}"
    all_pods = list(pods(manifests))
    for name, service in served.items():
        selector = service["spec"].get("selector") or {}
        behind = [pod for pod in all_pods if selector.items() <= pod.labels.items()]
        for port in service["spec"]["ports"]:
            target = port.get("targetPort", port["port"])
            if not any(target in {*pod.ports(), *pod.ports().values()} for pod in behind):
                yield f"Service/{name}", f"no pod has port {target}"


def _addresses(manifests: Sequence[Manifest]) -> Iterator[tuple[str, str, int]]:
    """(subject, host, port) of addresses inside the namespace."""
    for ingress in of_kind(manifests, "Ingress"):
        for rule in ingress["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                service = path["backend"]["service"]
                yield name_of(ingress), service["name"], service["port"]["number"]
    for cluster in ray_clusters(manifests):
        address = (cluster.spec.get("gcsFaultToleranceOptions") or {}).get("redisAddress")
        if address:
            host, _, port = address.rpartition(":")
            yield cluster.name, host.rpartition("/")[2], int(port)
    for config in of_kind(manifests, "ConfigMap"):
        endpoint = (config.get("data") or {}).get("AWS_ENDPOINT_URL", "")
        if endpoint:
            host, _, port = endpoint.rpartition("/")[2].partition(":")
            yield name_of(config), host, int(port or 80)


def _inline_secrets(manifests: Sequence[Manifest]) -> list[Finding]:
    """Secrets are made in the cluster, not kept in a repository; `local` says that its own are none."""
    if any(THROW_AWAY in (m["metadata"].get("annotations") or {}) for m in of_kind(manifests, "Namespace")):
        return []
    found = [
        Finding("policy/inline_secrets", name_of(secret), "a Secret with its values in the manifests")
        for secret in of_kind(manifests, "Secret")
    ]
    for pod in pods(manifests):
        for container in pod.all_containers:
            for entry in container.get("env") or []:
                is_secret = any(word in entry["name"] for word in ("SECRET", "TOKEN", "PASSWORD", "API_KEY"))
                if is_secret and "value" in entry:
                    found.append(
                        Finding("policy/inline_secrets", pod.subject, f"{entry['name']} is given in the open")
                    )
    for config in of_kind(manifests, "ConfigMap"):
        for key in config.get("data") or {}:
            if any(word in key for word in ("SECRET", "TOKEN", "PASSWORD", "ACCESS_KEY", "API_KEY")):
                found.append(Finding("policy/inline_secrets", name_of(config), f"{key} is given in the open"))
    return found
