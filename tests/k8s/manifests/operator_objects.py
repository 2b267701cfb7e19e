"""What KubeRay's operator refuses in its objects although the CRD allows it.

Ported from ray-operator/controllers/ray/utils/validation.go of KubeRay 1.7 (the port of Serve from
common/service.go); each rule takes an object and yields its complaints.
"""

from __future__ import annotations

import re
import zoneinfo
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import yaml

from .finding import Finding
from .rendering import Manifest, name_of

MAX_NAME = {"RayCluster": 53, "RayJob": 47, "RayService": 47, "RayCronJob": 36}
_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_GO_DURATION = re.compile(r"(\d+(\.\d+)?(ns|us|ms|s|m|h))+")
_DELETION_ORDER = ("DeleteWorkers", "DeleteCluster", "DeleteSelf")


def names_leave_room_for_suffixes(manifest: Manifest) -> Iterator[str]:
    """Names of pods and services are made from them; services' begin with a letter."""
    name, limit = manifest["metadata"]["name"], MAX_NAME[manifest["kind"]]
    if len(name) > limit or not _DNS_1035.fullmatch(name):
        yield f"the name must be a DNS-1035 label of at most {limit} characters"


def deletion_is_configured_once(manifest: Manifest) -> Iterator[str]:
    """deletionRules, or shutdownAfterJobFinishes with its TTL."""
    for job in _jobs(manifest):
        strategy, shuts_down = job.get("deletionStrategy"), job.get("shutdownAfterJobFinishes", False)
        if (job.get("ttlSecondsAfterFinished") or 0) < 0:
            yield "ttlSecondsAfterFinished is negative"
        if job.get("ttlSecondsAfterFinished") and not shuts_down:
            yield "ttlSecondsAfterFinished without shutdownAfterJobFinishes"
        if strategy is None:
            continue
        rules, is_legacy = strategy.get("deletionRules"), bool({"onSuccess", "onFailure"} & set(strategy))
        if rules and shuts_down:
            yield "deletionRules and shutdownAfterJobFinishes exclude each other"
        if bool(rules) == is_legacy:
            yield "deletionStrategy needs deletionRules, or onSuccess and onFailure"


def deletion_rules_are_in_order(manifest: Manifest) -> Iterator[str]:
    """Per condition: no rule twice, and workers go no later than the cluster, and that before the object."""
    for job in _jobs(manifest):
        rules = (job.get("deletionStrategy") or {}).get("deletionRules") or []
        keys = [(_condition(rule), rule["policy"]) for rule in rules]
        for (condition, policy), count in Counter(keys).items():
            if count > 1:
                yield f"deletionRules: {policy} twice for {condition}"
        for condition in dict.fromkeys(condition for condition, _ in keys):
            ttls = {
                rule["policy"]: rule["condition"].get("ttlSeconds", 0)
                for rule in rules
                if _condition(rule) == condition
            }
            ordered = [ttls[policy] for policy in _DELETION_ORDER if policy in ttls]
            if ordered != sorted(ordered) or any(ttl < 0 for ttl in ordered):
                yield f"deletionRules: TTLs for {condition} are out of order: {ttls}"


def workers_are_not_deleted_under_an_autoscaler(manifest: Manifest) -> Iterator[str]:
    """It would bring them back."""
    for job in _jobs(manifest):
        policies = {rule["policy"] for rule in (job.get("deletionStrategy") or {}).get("deletionRules") or []}
        if "DeleteWorkers" in policies and (job.get("rayClusterSpec") or {}).get("enableInTreeAutoscaling"):
            yield "deletionRules: DeleteWorkers with enableInTreeAutoscaling"


def suspension_needs_shutdown(manifest: Manifest) -> Iterator[str]:
    """Kueue suspends jobs, too."""
    for job in _jobs(manifest):
        queued = "kueue.x-k8s.io/queue-name" in (manifest["metadata"].get("labels") or {})
        if (job.get("suspend") or queued) and not job.get("shutdownAfterJobFinishes"):
            yield "a job that is suspended, by Kueue or here, needs shutdownAfterJobFinishes: true"


def clusters_are_made_or_selected(manifest: Manifest) -> Iterator[str]:
    """A cluster of others is neither made again for a retry nor suspended."""
    for job in _jobs(manifest):
        selector = job.get("clusterSelector")
        if not selector and not job.get("rayClusterSpec"):
            yield "neither rayClusterSpec nor clusterSelector is set"
        if not selector:
            continue
        if not selector.get("ray.io/cluster"):
            yield "clusterSelector has no ray.io/cluster"
        if job.get("suspend") or job.get("backoffLimit"):
            yield "clusterSelector with suspend or backoffLimit"
        if job.get("submissionMode") == "SidecarMode":
            yield "clusterSelector in SidecarMode"


def submission_modes_have_their_limits(manifest: Manifest) -> Iterator[str]:
    """Nobody submits an interactive job again; a sidecar is no pod of its own."""
    for job in _jobs(manifest):
        mode = job.get("submissionMode", "K8sJobMode")
        if mode not in ("K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"):
            yield f"submissionMode {mode} is unknown"
        if mode == "InteractiveMode" and job.get("backoffLimit"):
            yield "backoffLimit in InteractiveMode"
        if mode == "SidecarMode" and (job.get("submitterPodTemplate") or job.get("submitterConfig")):
            yield "a submitter pod in SidecarMode"


def deadlines_are_positive(manifest: Manifest) -> Iterator[str]:
    for job in _jobs(manifest):
        for key in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
            if job.get(key) is not None and job[key] <= 0:
                yield f"{key} must be positive"
        if (job.get("backoffLimit") or 0) < 0:
            yield "backoffLimit must not be negative"


def runtime_environment_is_yaml(manifest: Manifest) -> Iterator[str]:
    for job in _jobs(manifest):
        try:
            tree = yaml.safe_load(job.get("runtimeEnvYAML") or "{}")
        except yaml.YAMLError:
            tree = None
        if not isinstance(tree, dict):
            yield "runtimeEnvYAML is not a mapping in YAML"


def schedules_parse(manifest: Manifest) -> Iterator[str]:
    """Five fields; the time zone is a field of its own."""
    if manifest["kind"] != "RayCronJob":
        return
    schedule, zone = manifest["spec"]["schedule"], manifest["spec"].get("timeZone")
    if "TZ" in schedule:
        yield "schedule has a time zone; it belongs into timeZone"
    elif not _is_cron(schedule):
        yield f"schedule '{schedule}' does not parse"
    if zone is not None and zone not in zoneinfo.available_timezones():
        yield f"timeZone '{zone}' is unknown"


def services_upgrade_in_a_known_way(manifest: Manifest) -> Iterator[str]:
    if manifest["kind"] != "RayService":
        return
    spec = manifest["spec"]
    strategy = spec.get("upgradeStrategy") or {}
    kind = strategy.get("type", "NewCluster")
    if kind not in ("NewCluster", "None", "NewClusterWithIncrementalUpgrade"):
        yield f"upgradeStrategy.type {kind} is unknown"
    if (spec.get("rayClusterDeletionDelaySeconds") or 0) < 0:
        yield "rayClusterDeletionDelaySeconds is negative"
    if kind != "NewClusterWithIncrementalUpgrade":
        return
    options = strategy.get("clusterUpgradeOptions") or {}
    surge, step = options.get("maxSurgePercent", 100), options.get("stepSizePercent", -1)
    if not spec["rayClusterConfig"].get("enableInTreeAutoscaling"):
        yield "an incremental upgrade needs the autoscaler"
    if not 0 <= step <= surge <= 100 or (options.get("intervalSeconds") or 0) <= 0:
        yield "clusterUpgradeOptions need 0 <= stepSizePercent <= maxSurgePercent <= 100 and an interval"
    if not options.get("gatewayClassName"):
        yield "clusterUpgradeOptions need a gatewayClassName"


def services_have_a_serve_port_on_the_head(manifest: Manifest) -> Iterator[str]:
    """The operator makes the Service of Serve from the head's ports; with others listed, none is implied."""
    if manifest["kind"] != "RayService":
        return
    head = manifest["spec"]["rayClusterConfig"]["headGroupSpec"]
    ports = [port["name"] for port in head["template"]["spec"]["containers"][0].get("ports") or []]
    if ports and not any(name == "serve" or name.startswith("serve-") for name in ports):
        yield "the head lists ports and none is named serve, so there is no Service for Serve"
    if (head.get("headService") or {}).get("metadata", {}).get("name"):
        yield "headService.metadata.name must not be set in a RayService"


def initializing_timeout_is_a_duration(manifest: Manifest) -> Iterator[str]:
    """In Go's notation, or seconds."""
    text = (manifest["metadata"].get("annotations") or {}).get("ray.io/initializing-timeout", "1")
    is_number = text.isdigit() and int(text) > 0
    if not is_number and not (_GO_DURATION.fullmatch(text) and any(digit in text for digit in "123456789")):
        yield f"ray.io/initializing-timeout '{text}' is no positive duration"


RULES: tuple[Callable[[Manifest], Iterator[str]], ...] = (
    names_leave_room_for_suffixes,
    deletion_is_configured_once,
    deletion_rules_are_in_order,
    workers_are_not_deleted_under_an_autoscaler,
    suspension_needs_shutdown,
    clusters_are_made_or_selected,
    submission_modes_have_their_limits,
    deadlines_are_positive,
    runtime_environment_is_yaml,
    schedules_parse,
    services_upgrade_in_a_known_way,
    services_have_a_serve_port_on_the_head,
    initializing_timeout_is_a_duration,
)


def check_services_of_operator(manifests: Sequence[Manifest]) -> list[Finding]:
    """Every object but a cron job gets a Service NAME-head-svc; two of a name would fight for one."""
    owners: dict[str, list[str]] = {}
    for manifest in manifests:
        if manifest["kind"] in ("RayCluster", "RayJob", "RayService"):
            owners.setdefault(manifest["metadata"]["name"], []).append(name_of(manifest))
    return [
        Finding("operator/services", same[0], f"{name}-head-svc is also the Service of {', '.join(same[1:])}")
        for name, same in owners.items()
        if len(same) > 1
    ]


def check_operator_on_object(manifest: Manifest) -> list[Finding]:
    if manifest["kind"] not in MAX_NAME:
        return []
    return [
        Finding(f"operator/{rule.__name__}", name_of(manifest), message)
        for rule in RULES
        for message in rule(manifest)
    ]


def _jobs(manifest: Manifest) -> list[dict[str, Any]]:
    """The job's spec, if there is one."""
    return {"RayJob": [manifest["spec"]], "RayCronJob": [manifest["spec"].get("jobTemplate", {})]}.get(
        manifest["kind"], []
    )


def _condition(rule: dict[str, Any]) -> str:
    condition = rule["condition"]
    return condition.get("jobStatus") or f"deployment {condition.get('jobDeploymentStatus')}"


def _is_cron(schedule: str) -> bool:
    """Numbers, steps, ranges and lists within their limits; or one of the names with @."""
    if schedule in ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"):
        return True
    limits = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
    fields = schedule.split()
    if len(fields) != len(limits):
        return False
    for field, (low, high) in zip(fields, limits, strict=True):
        for part in field.split(","):
            match = re.fullmatch(r"(?:\*|(\d+)(?:-(\d+))?)(?:/[1-9]\d*)?", part)
            if not match or any(number and not low <= int(number) <= high for number in match.groups()):
                return False
    return True
