"""The manifests below k8s/: every overlay and optional component renders, and nothing is wrong with it."""

from __future__ import annotations

import copy
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest
import yaml
from manifests.checks import check
from manifests.crds import CRD_DIR, check_crds, schemas
from manifests.network import Peer, is_allowed, may_leave
from manifests.pods import pods
from manifests.rayclusters import ray_clusters
from manifests.rendering import K8S, OVERLAYS, ROOT, Manifest, name_of, of_kind, render, render_with

needs_crds = pytest.mark.skipif(not CRD_DIR.is_dir(), reason=f"no KubeRay CRDs in {CRD_DIR} (COTRAY_CRD_DIR)")
OPTIONAL = {
    "cron": frozenset({"RayCronJob"}),
    "incremental-upgrade": frozenset[str](),
    "kueue": frozenset[str](),
}
"""Components of no overlay, and the feature gates that they need beside the values file's."""


@cache
def rendered(overlay: str) -> list[Manifest]:
    return render(K8S / "overlays" / overlay)


def named(overlay: str) -> dict[str, Manifest]:
    return {name_of(manifest): manifest for manifest in rendered(overlay)}


@needs_crds
def test_the_crds_of_all_four_kinds_are_read() -> None:
    kinds = {kind for _, kind in schemas()}
    assert kinds == {"RayCluster", "RayJob", "RayService", "RayCronJob"}


@needs_crds
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_s_objects_are_what_kuberay_s_crds_describe(overlay: str) -> None:
    assert [str(finding) for manifest in rendered(overlay) for finding in check_crds(manifest)] == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_renders_and_nothing_is_wrong_with_it(overlay: str) -> None:
    assert [str(finding) for finding in check(rendered(overlay))] == []


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("component", OPTIONAL)
def test_an_optional_component_renders_and_nothing_is_wrong_with_it(
    overlay: str, component: str, tmp_path: Path
) -> None:
    manifests = render_with(overlay, [component], tmp_path)
    findings = check(manifests, further_gates=OPTIONAL[component])
    assert [str(finding) for finding in findings] == []


def test_every_component_is_in_an_overlay_or_optional() -> None:
    """None is left unrendered."""
    listed = {
        Path(path).name
        for overlay in OVERLAYS
        for path in yaml.safe_load((K8S / "overlays" / overlay / "kustomization.yaml").read_text())[
            "components"
        ]
    }
    there = {path.name for path in (K8S / "components").iterdir()}
    assert listed | OPTIONAL.keys() == there
    assert not listed & OPTIONAL.keys()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_issue_s_objects_are_there(overlay: str) -> None:
    wanted = {"RayCluster/cotray", "RayService/cotray-student", "PodDisruptionBudget/cotray-head"}
    wanted |= {f"RayJob/cotray-{verb}" for verb in ("prepare", "generate", "assess", "train", "score", "run")}
    assert wanted <= named(overlay).keys()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_cluster_is_written_once_and_copied(overlay: str) -> None:
    objects = copy.deepcopy(named(overlay))
    cluster = objects["RayCluster/cotray"]["spec"]
    jobs = of_kind(rendered(overlay), "RayJob")
    assert len(jobs) == 6
    for job in jobs:
        assert job["spec"]["rayClusterSpec"] == cluster
    service = objects["RayService/cotray-student"]["spec"]["rayClusterConfig"]
    head = service["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert head["env"].pop()["name"] == "COTRAY_API_KEYS"
    for key in ("headGroupSpec", "autoscalerOptions", "authOptions", "rayVersion"):
        assert service[key] == cluster[key]


def test_a_spot_teacher_differs_from_one_on_demand_in_its_market_alone() -> None:
    spec = named("spot")["RayCluster/cotray"]["spec"]
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    spot, other = groups["teacher-spot"], groups["teacher"]
    assert (spot["priority"], other["priority"]) == (10, 0)
    assert (spot["maxReplicas"], other["maxReplicas"]) == (8, 2)
    assert spot["labels"] == {"cotray.dev/role": "teacher", "ray.io/market-type": "spot"}
    assert spot["template"]["spec"]["containers"] == other["template"]["spec"]["containers"]
    market = {name: group["labels"]["ray.io/market-type"] for name, group in groups.items()}
    assert [name for name, value in market.items() if value == "spot"] == ["teacher-spot"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_configuration_and_environment_are_named_by_their_content_everywhere(overlay: str) -> None:
    """Otherwise a changed configuration would reach no pod, and a RayService would not upgrade."""
    manifests = rendered(overlay)
    maps = {m["metadata"]["name"] for m in of_kind(manifests, "ConfigMap")} - {"cotray-dashboard"}
    assert sorted(re.sub(r"-[0-9a-z]{10}$", "", name) for name in maps) == ["cotray-config", "cotray-env"]
    for cluster in ray_clusters(manifests):
        for _, group in cluster.named_groups:
            spec = group["template"]["spec"]
            used = {volume["configMap"]["name"] for volume in spec["volumes"] if "configMap" in volume}
            used |= {
                s["configMapRef"]["name"] for s in spec["containers"][0]["envFrom"] if "configMapRef" in s
            }
            assert used == maps


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_images_have_the_version_of_the_package(overlay: str) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    kind = "cpu" if overlay == "local" else "gpu"
    images = {c["image"] for pod in pods(rendered(overlay)) if pod.group for c in pod.containers}
    assert images == {f"cotray:{version}-{kind}"}


INGRESS = Peer({"app.kubernetes.io/name": "ingress-nginx"}, {"kubernetes.io/metadata.name": "ingress-nginx"})
OPERATOR = Peer(
    {"app.kubernetes.io/name": "kuberay-operator"}, {"kubernetes.io/metadata.name": "kuberay-system"}
)
PROMETHEUS = Peer({"app.kubernetes.io/name": "prometheus"}, {"kubernetes.io/metadata.name": "monitoring"})
STRANGER = Peer({"app.kubernetes.io/part-of": "cotray"}, {"kubernetes.io/metadata.name": "default"})
NEIGHBOUR = Peer({"app": "anything"})
SUBMITTER = Peer({"cotray.dev/submitter": "true"})


@pytest.mark.parametrize(
    ("source", "allowed"),
    [
        (STRANGER, set()),
        (NEIGHBOUR, set()),
        (SUBMITTER, {8265}),
        (OPERATOR, {8265, 8000}),
        (PROMETHEUS, {8080, 44217, 44227}),
        (INGRESS, set()),
    ],
    ids=["stranger", "neighbour", "submitter", "operator", "prometheus", "ingress"],
)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_head_is_reached_by_those_who_must_and_on_their_ports(
    overlay: str, source: Peer, allowed: set[int]
) -> None:
    manifests = rendered(overlay)
    head = next(pod for pod in pods(manifests) if pod.subject == "RayCluster/cotray head")
    ports = set(head.ports().values())
    assert ports == {6379, 8265, 10001, 8080, 44217, 44227, 8000}
    assert {port for port in ports if is_allowed(manifests, source, head.labels, port)} == allowed


def test_inside_the_namespace_pods_reach_what_they_use_and_the_ingress_reaches_replicas() -> None:
    manifests = rendered("local")
    by_name = {pod.subject: pod for pod in pods(manifests)}
    teacher = Peer(by_name["RayJob/cotray-run teacher"].labels)
    head = by_name["RayService/cotray-student head"].labels
    serving = by_name["RayService/cotray-student serving"].labels
    redis, minio = by_name["StatefulSet/redis"].labels, by_name["StatefulSet/minio"].labels
    assert is_allowed(manifests, teacher, by_name["RayJob/cotray-run head"].labels, 6379)
    assert is_allowed(manifests, Peer(head), redis, 6379)
    assert is_allowed(manifests, teacher, minio, 9000)
    assert is_allowed(manifests, INGRESS, serving, 8000)
    assert not is_allowed(manifests, INGRESS, serving, 8080)
    assert not is_allowed(manifests, INGRESS, by_name["RayJob/cotray-run teacher"].labels, 8000)
    assert not is_allowed(manifests, NEIGHBOUR, redis, 6379)
    assert not is_allowed(manifests, NEIGHBOUR, minio, 9000)
    assert not is_allowed(manifests, PROMETHEUS, serving, 8265)


DNS = Peer({"k8s-app": "kube-dns"}, {"kubernetes.io/metadata.name": "kube-system"})


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_leave_for_what_they_use_alone(overlay: str) -> None:
    manifests = rendered(overlay)
    by_name = {pod.subject: pod.labels for pod in pods(manifests)}
    head, teacher = by_name["RayJob/cotray-run head"], by_name["RayJob/cotray-run teacher"]
    redis = by_name["StatefulSet/redis"]
    for labels in (head, teacher):
        inside = [(Peer(head), 6379), (Peer(teacher), 20000), (Peer(redis), 6379), (DNS, 53)]
        outside = [("52.216.1.1", 80), ("169.254.169.254", 80), ("169.254.169.254", 443), ("10.0.0.9", 22)]
        outside += [(Peer(redis), 22), (NEIGHBOUR, 8080), (STRANGER, 443)]
        assert all(may_leave(manifests, labels, peer, port) for peer, port in [*inside, ("52.216.1.1", 443)])
        assert may_leave(manifests, labels, DNS, 53, "UDP")
        assert not any(may_leave(manifests, labels, peer, port) for peer, port in outside)
    assert may_leave(manifests, head, "10.96.0.1", 6443)
    assert not may_leave(manifests, teacher, "10.96.0.1", 6443)
    for labels in (redis, NEIGHBOUR.labels):
        assert not may_leave(manifests, labels, "52.216.1.1", 443)
        assert not may_leave(manifests, labels, DNS, 53, "UDP")


def test_the_ingress_exposes_the_api_and_the_page_and_nothing_of_serves_own() -> None:
    from fastapi.routing import APIRoute
    from starlette.testclient import TestClient
    from visits import Scripted

    from cotray.config import ServingConfig
    from cotray.serving.app import create_app

    (ingress,) = [each for each in rendered("gpu") if each["kind"] == "Ingress"]
    (rule,) = ingress["spec"]["rules"]
    paths = [(entry["path"], entry["pathType"]) for entry in rule["http"]["paths"]]

    def is_exposed(asked: str) -> bool:
        return any(
            asked == path if kind == "Exact" else f"{asked}/".startswith(f"{path.rstrip('/')}/")
            for path, kind in paths
        )

    assert not any(
        map(is_exposed, ("/-/routes", "/-/healthz", "/healthz", "/docs", "/openapi.json", "/metrics"))
    )
    # All that clients call, and all that the page asks for.
    app = create_app(Scripted(), ServingConfig(), ["k"])
    client_paths = [
        r.path for r in app.routes if isinstance(r, APIRoute) and r.path.startswith(("/v1", "/page"))
    ]
    assert len(client_paths) > 10 and all(map(is_exposed, [*client_paths, "/", "/readyz"]))
    page = TestClient(app).get("/").text
    assert all(is_exposed(f"/{name}") for name in re.findall(r'(?:src|href)="(page/[^"]+)"', page))


def test_the_operator_is_pinned_and_confined_to_the_namespace() -> None:
    values = yaml.safe_load((K8S / "operator" / "values.yaml").read_text())
    assert values["image"]["tag"] == "v1.7.1"
    assert (values["singleNamespaceInstall"], values["watchNamespace"]) == (True, ["cotray"])
    # The chart's own keys: Helm ignores others without a word.
    known = {"image", "replicas", "leaderElectionEnabled", "singleNamespaceInstall", "watchNamespace"}
    assert values.keys() == known | {"featureGates", "resources", "metrics"}
