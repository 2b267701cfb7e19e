"""All checks of a set of manifests."""

from __future__ import annotations

from collections.abc import Sequence

from .admission import admitted, check_name
from .capacity import check_capacity
from .cluster_policy import check_clusters
from .configurations import check_configurations
from .crds import CRD_DIR, check_crds
from .feature_gates import check_gates, configured_gates
from .finding import Finding
from .kubernetes_schemas import check_kubernetes
from .monitoring import check_monitoring_schema, check_monitors
from .network import check_disruption_budgets, check_network
from .operator_clusters import check_operator_on_cluster, groups_have_containers
from .operator_objects import check_operator_on_object, check_services_of_operator
from .pod_policy import check_pods
from .rayclusters import ray_clusters
from .references import check_references
from .rendering import Manifest
from .translation import check_translation


def check(manifests: Sequence[Manifest], *, further_gates: frozenset[str] = frozenset()) -> list[Finding]:
    """Empty where nothing is wrong. `further_gates` are on beside those in the operator's values file.

    Without KubeRay's CRDs at hand, all but `check_crds`.
    """
    found: list[Finding] = []
    manifests = [admitted(manifest) for manifest in manifests]
    for manifest in manifests:
        found += check_name(manifest)
        found += (check_crds(manifest) if CRD_DIR.is_dir() else []) + check_kubernetes(manifest)
        found += check_monitoring_schema(manifest)
    if found:
        # The checks below read fields that the schemas promise, and later ones the Ray container's.
        return found
    for manifest in manifests:
        found += check_operator_on_object(manifest) + check_gates(
            manifest, configured_gates() | further_gates
        )
    found += check_services_of_operator(manifests)
    for cluster in ray_clusters(manifests):
        found += check_operator_on_cluster(cluster) + check_translation(cluster)
    if any(finding.check == f"operator/{groups_have_containers.__name__}" for finding in found):
        return found
    found += check_pods(manifests) + check_clusters(manifests) + check_references(manifests)
    found += check_network(manifests) + check_disruption_budgets(manifests)
    found += check_monitors(manifests) + check_configurations(manifests)
    if not any(finding.check == "translation" for finding in found):
        found += check_capacity(manifests)
    return found
