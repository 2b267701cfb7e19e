"""What the API server, the operator or the autoscaler refuses."""

from __future__ import annotations

import copy
from collections.abc import Callable

from .mistake import (
    CLUSTER,
    CONTAINER,
    HEAD,
    JOB,
    POD,
    RUN,
    SERVED,
    SERVICE,
    SPEC,
    TEACHER,
    Mistake,
    Objects,
    put,
)

SCHEMAS = (
    Mistake("typo_deep_in_a_pod", "crd", JOB, "'tolerationz'", put(*POD, "tolerationz", to=[])),
    Mistake("wrong_type", "crd", JOB, "minReplicas", put(*TEACHER, "minReplicas", to="one")),
    Mistake(
        "unknown_mode",
        "crd",
        JOB,
        "upscalingMode",
        put(*SPEC, "autoscalerOptions", "upscalingMode", to="Fast"),
    ),
    Mistake(
        "number_as_start_parameter", "crd", JOB, "num-cpus", put(*HEAD, "rayStartParams", "num-cpus", to=0)
    ),
    Mistake("missing_template", "crd", JOB, "'template' is a required", put(*TEACHER, "template", to=None)),
    Mistake(
        "foreign_manager", "crd-cel", JOB, "managedBy", put(*RUN, "managedBy", to="someone.else/operator")
    ),
    Mistake(
        "old_and_new_deletion",
        "crd-cel",
        JOB,
        "deletionRules",
        put(*RUN, "deletionStrategy", "onSuccess", to={"policy": "DeleteCluster"}),
    ),
    Mistake(
        "unknown_field",
        "kubernetes",
        "Service/redis",
        "selectors",
        put("Service/redis", "spec", "selectors", to={}),
    ),
    Mistake(
        "port_as_text",
        "kubernetes",
        "NetworkPolicy/redis",
        "policyTypes",
        put("NetworkPolicy/redis", "spec", "policyTypes", to="Ingress"),
    ),
    Mistake(
        "unknown_kind",
        "kubernetes",
        "Ingres/cotray",
        "no networking",
        put("Ingress/cotray", "kind", to="Ingres"),
    ),
    Mistake(
        "no_name",
        "api",
        "Ingress",
        "name or generateName",
        put("Ingress/cotray", "metadata", "name", to=None),
    ),
)

CLUSTERS = (
    Mistake(
        "no_container", "operator/groups_have_containers", JOB, "teacher", put(*POD, "containers", to=[])
    ),
    Mistake(
        "resources_twice",
        "operator/resources_are_given_once",
        JOB,
        "data",
        put(*SPEC, "workerGroupSpecs", 0, "rayStartParams", "num-cpus", to="2"),
    ),
    Mistake(
        "labels_as_start_parameter",
        "operator/labels_are_fields_and_well_formed",
        JOB,
        "teacher",
        put(*TEACHER, "rayStartParams", "labels", to="a=b"),
    ),
    Mistake(
        "label_with_a_space",
        "operator/labels_are_fields_and_well_formed",
        JOB,
        "on demand",
        put(*TEACHER, "labels", "ray.io/market-type", to="on demand"),
    ),
    Mistake(
        "min_above_max",
        "operator/replicas_are_a_range",
        JOB,
        "minReplicas 9",
        put(*TEACHER, "minReplicas", to=9),
    ),
    Mistake(
        "autoscaler_version_left_out",
        "operator/group_timeouts_and_priorities_need_autoscaler_v2",
        JOB,
        "teacher-spot",
        put(*SPEC, "autoscalerOptions", "version", to=None),
    ),
    Mistake(
        "old_ray",
        "operator/priorities_need_ray_2_56",
        JOB,
        "teacher-spot",
        put(*SPEC, "rayVersion", to="2.55.1"),
    ),
    Mistake(
        "restarting_worker",
        "operator/pods_of_autoscaler_v2_never_restart",
        JOB,
        "teacher",
        put(*POD, "restartPolicy", to="Always"),
    ),
    Mistake(
        "autoscaler_twice",
        "operator/autoscaler_is_configured_once",
        JOB,
        "both set",
        put(
            *HEAD,
            "template",
            "spec",
            "containers",
            0,
            "env",
            0,
            to={"name": "RAY_enable_autoscaler_v2", "value": "1"},
        ),
    ),
    Mistake(
        "suspended_group",
        "operator/suspended_groups_need_no_autoscaler",
        JOB,
        "teacher",
        put(*TEACHER, "suspend", to=True),
    ),
    Mistake(
        "authentication_without_mode",
        "operator/authentication_is_spelled_out",
        JOB,
        "mode: token",
        put(*SPEC, "authOptions", to={"secretName": "cotray-s3"}),
    ),
    Mistake(
        "redis_password_of_the_head",
        "operator/gcs_fault_tolerance_has_one_source",
        SERVICE,
        "Redis settings",
        put(*SERVED, "headGroupSpec", "rayStartParams", "redis-password", to="x"),
    ),
    Mistake(
        "recreated_inside_a_job",
        "operator/upgrade_strategy_is_for_clusters_of_their_own",
        JOB,
        "RayJob",
        put(*SPEC, "upgradeStrategy", to={"type": "Recreate"}),
    ),
    Mistake(
        "policy_for_no_group",
        "operator/group_names_fit_network_policies",
        JOB,
        "students",
        put(*SPEC, "networkPolicy", to={"workerGroups": [{"groupName": "students"}]}),
    ),
)


def _cron_job(schedule: str) -> Callable[[Objects], None]:
    """Plants a RayCronJob of the run."""

    def plant(objects: Objects) -> None:
        objects["RayCronJob/nightly"] = {
            "apiVersion": "ray.io/v1",
            "kind": "RayCronJob",
            "metadata": {"name": "nightly", "namespace": "cotray"},
            "spec": {"schedule": schedule, "jobTemplate": copy.deepcopy(objects[JOB]["spec"])},
        }

    return plant


OBJECTS = (
    Mistake(
        "long_name",
        "operator/names_leave_room_for_suffixes",
        "RayJob/" + "x" * 48,
        "47",
        put(JOB, "metadata", "name", to="x" * 48),
    ),
    Mistake(
        "shutdown_and_rules",
        "operator/deletion_is_configured_once",
        JOB,
        "exclude",
        put(*RUN, "shutdownAfterJobFinishes", to=True),
    ),
    Mistake(
        "ttl_alone",
        "operator/deletion_is_configured_once",
        JOB,
        "ttlSeconds",
        put(*RUN, "ttlSecondsAfterFinished", to=60),
    ),
    Mistake(
        "object_before_its_cluster",
        "operator/deletion_rules_are_in_order",
        JOB,
        "SUCCEEDED",
        put(*RUN, "deletionStrategy", "deletionRules", 1, "condition", "ttlSeconds", to=1),
    ),
    Mistake(
        "workers_deleted",
        "operator/workers_are_not_deleted_under_an_autoscaler",
        JOB,
        "DeleteWorkers",
        put(*RUN, "deletionStrategy", "deletionRules", 0, "policy", to="DeleteWorkers"),
    ),
    Mistake(
        "suspended_job",
        "operator/suspension_needs_shutdown",
        JOB,
        "shutdownAfterJobFinishes",
        put(*RUN, "suspend", to=True),
    ),
    Mistake(
        "queued_job",
        "operator/suspension_needs_shutdown",
        JOB,
        "Kueue",
        put(JOB, "metadata", "labels", "kueue.x-k8s.io/queue-name", to="cotray"),
    ),
    Mistake("no_cluster", "operator/clusters_are_made_or_selected", JOB, "neither", put(*SPEC, to=None)),
    Mistake(
        "retried_on_a_cluster_of_others",
        "operator/clusters_are_made_or_selected",
        JOB,
        "backoffLimit",
        put(*RUN, "clusterSelector", to={"ray.io/cluster": "cotray"}),
    ),
    Mistake(
        "retried_by_hand",
        "operator/submission_modes_have_their_limits",
        JOB,
        "InteractiveMode",
        put(*RUN, "submissionMode", to="InteractiveMode"),
    ),
    Mistake(
        "no_time",
        "operator/deadlines_are_positive",
        JOB,
        "activeDeadline",
        put(*RUN, "activeDeadlineSeconds", to=-1),
    ),
    Mistake(
        "runtime_text",
        "operator/runtime_environment_is_yaml",
        JOB,
        "runtimeEnvYAML",
        put(*RUN, "runtimeEnvYAML", to="{a"),
    ),
    Mistake(
        "unlimited_surge",
        "operator/services_upgrade_in_a_known_way",
        SERVICE,
        "gatewayClassName",
        put(
            SERVICE,
            "spec",
            "upgradeStrategy",
            to={
                "type": "NewClusterWithIncrementalUpgrade",
                "clusterUpgradeOptions": {
                    "stepSizePercent": 30,
                    "intervalSeconds": 5,
                    "gatewayClassName": "",
                },
            },
        ),
    ),
    Mistake(
        "service_named_as_the_cluster",
        "operator/services",
        CLUSTER,
        "cotray-head-svc",
        put(SERVICE, "metadata", "name", to="cotray"),
    ),
    Mistake(
        "endless_start",
        "operator/initializing_timeout_is_a_duration",
        SERVICE,
        "half an hour",
        put(SERVICE, "metadata", "annotations", "ray.io/initializing-timeout", to="half an hour"),
    ),
    Mistake(
        "gate_that_is_off",
        "operator/feature_gates",
        JOB,
        "RayClusterMTLS",
        put(*SPEC, "tlsOptions", to={"enabled": True}),
    ),
    Mistake(
        "unknown_submission",
        "operator/submission_modes_have_their_limits",
        JOB,
        "Carrier",
        put(*RUN, "submissionMode", to="Carrier"),
    ),
    Mistake(
        "schedule_with_an_hour_25",
        "operator/schedules_parse",
        "RayCronJob/nightly",
        "0 25",
        _cron_job("0 25 * * *"),
    ),
    Mistake(
        "cron_job_without_its_gate",
        "operator/feature_gates",
        "RayCronJob/nightly",
        "gate RayCronJob",
        _cron_job("0 3 * * *"),
    ),
    Mistake(
        "head_without_a_serve_port",
        "operator/services_have_a_serve_port_on_the_head",
        SERVICE,
        "serve",
        put(*SERVED, "headGroupSpec", "template", "spec", "containers", 0, "ports", 6, to=None),
    ),
)

TRANSLATION = (
    Mistake(
        "cpus_unknown_to_the_autoscaler",
        "translation",
        JOB,
        "CPU",
        put(*CONTAINER, "resources", to={"limits": {"memory": "1Gi"}, "requests": {"memory": "1Gi"}}),
    ),
    Mistake("group_twice", "translation", JOB, "trainer", put(*TEACHER, "groupName", to="trainer")),
)
