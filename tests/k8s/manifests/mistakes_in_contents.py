"""What is named and not there, and what is asked of Ray and does not fit."""

from __future__ import annotations

from .mistake import (
    BUDGET,
    CLUSTER,
    CONTAINER,
    JOB,
    POD,
    RUN,
    SERVED,
    SERVICE,
    SPOT_TEACHER,
    Mistake,
    put,
    replace,
)

REFERENCES = (
    Mistake(
        "unknown_secret",
        "policy/references",
        f"{JOB} teacher",
        "cotray-s4",
        put(*CONTAINER, "envFrom", 1, "secretRef", "name", to="cotray-s4"),
    ),
    Mistake(
        "unknown_account",
        "policy/references",
        f"{JOB} teacher",
        "nobody",
        put(*POD, "serviceAccountName", to="nobody"),
    ),
    Mistake(
        "unknown_priority",
        "policy/references",
        f"{JOB} teacher",
        "urgent",
        put(*POD, "priorityClassName", to="urgent"),
    ),
    Mistake(
        "unknown_claim",
        "policy/references",
        f"{JOB} teacher",
        "cotray-models",
        put("PersistentVolumeClaim/cotray-models", to=None),
    ),
    Mistake(
        "redis_at_another_port",
        "policy/references",
        SERVICE,
        "no Service redis with port 6380",
        put(*SERVED, "gcsFaultToleranceOptions", "redisAddress", to="redis:6380"),
    ),
    Mistake(
        "service_of_no_pod",
        "policy/references",
        "Service/redis",
        "no pod",
        put("Service/redis", "spec", "selector", "app.kubernetes.io/component", to="reddis"),
    ),
    Mistake(
        "secret_in_the_open",
        "policy/inline_secrets",
        "Secret/cotray-s3",
        "values",
        put(
            "Secret/cotray-s3",
            to={
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "cotray-s3"},
                "stringData": {"a": "b"},
            },
        ),
    ),
    Mistake(
        "key_in_the_open",
        "policy/inline_secrets",
        f"{JOB} teacher",
        "HF_TOKEN",
        put(*CONTAINER, "env", 0, to={"name": "HF_TOKEN", "value": "hf_x"}),
    ),
    Mistake(
        "policy_for_nobody",
        "policy/network",
        "NetworkPolicy/redis",
        "no pod",
        put(
            "NetworkPolicy/redis",
            "spec",
            "podSelector",
            "matchLabels",
            "app.kubernetes.io/component",
            to="reddis",
        ),
    ),
    Mistake(
        "open_by_default",
        "policy/network",
        "NetworkPolicy",
        "denies what no other allows (Ingress)",
        put("NetworkPolicy/deny-ingress", to=None),
    ),
    Mistake(
        "leaves_by_default",
        "policy/network",
        "NetworkPolicy",
        "denies what no other allows (Egress)",
        put("NetworkPolicy/deny-egress", to=None),
    ),
    Mistake(
        "asks_for_the_nodes_credentials",
        "policy/network",
        f"{JOB} teacher",
        "169.254.169.254",
        put("NetworkPolicy/ray", "spec", "egress", "-", to={"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}),
    ),
    Mistake(
        "open_dashboard",
        "policy/network",
        CLUSTER,
        "8265 (dashboard)",
        put("NetworkPolicy/ray", "spec", "ingress", 2, to={"ports": [{"port": 8265}]}),
    ),
    Mistake("head_without_budget", "policy/disruption_budgets", f"{CLUSTER} head", "", put(BUDGET, to=None)),
    Mistake(
        "workers_never_drained",
        "policy/disruption_budgets",
        f"{CLUSTER} teacher",
        "keeps its node",
        put(BUDGET, "spec", "selector", "matchLabels", to={"app.kubernetes.io/part-of": "cotray"}),
    ),
)

CONFIGURATIONS = (
    Mistake(
        "misspelt_module",
        "policy/configurations",
        JOB,
        "jobs.genarate",
        put(*RUN, "entrypoint", to="python -m jobs.genarate -c /etc/cotray/cotray.yaml"),
    ),
    Mistake(
        "misspelt_file",
        "policy/configurations",
        JOB,
        "cotray.yml",
        put(*RUN, "entrypoint", to="python -m jobs.run -c /etc/cotray/cotray.yml"),
    ),
    Mistake(
        "file_not_in_the_image",
        "policy/configurations",
        JOB,
        "jobs/configs/none.yaml",
        put(*RUN, "entrypoint", to="python -m jobs.run -c jobs/configs/none.yaml"),
    ),
    Mistake(
        "unknown_key",
        "policy/configurations",
        JOB,
        "data.limti",
        put(*RUN, "entrypoint", to="python -m jobs.run -c /etc/cotray/cotray.yaml data.limti=3"),
    ),
    Mistake(
        "unknown_option",
        "policy/configurations",
        JOB,
        "--forced",
        put(*RUN, "entrypoint", to="python -m jobs.run -c /etc/cotray/cotray.yaml --forced"),
    ),
    Mistake(
        "shell_script",
        "policy/configurations",
        JOB,
        "not python -m",
        put(*RUN, "entrypoint", to="bash run.sh"),
    ),
    Mistake(
        "import_path_of_nothing",
        "policy/configurations",
        SERVICE,
        "build_ap does not resolve",
        replace(SERVICE, "spec", "serveConfigV2", before="build_app", after="build_ap"),
    ),
    Mistake(
        "served_file_unknown",
        "policy/configurations",
        SERVICE,
        "cotray.yml",
        replace(SERVICE, "spec", "serveConfigV2", before="cotray.yaml", after="cotray.yml"),
    ),
    Mistake(
        "serve_on_loopback",
        "policy/configurations",
        SERVICE,
        "0.0.0.0:8000",
        replace(SERVICE, "spec", "serveConfigV2", before="0.0.0.0", after="127.0.0.1"),
    ),
    Mistake(
        "serve_typo",
        "policy/configurations",
        SERVICE,
        "route_prefx",
        replace(SERVICE, "spec", "serveConfigV2", before="route_prefix", after="route_prefx"),
    ),
    Mistake(
        "serve_without_applications",
        "policy/configurations",
        SERVICE,
        "applications",
        replace(SERVICE, "spec", "serveConfigV2", before="applications", after="apps"),
    ),
    Mistake(
        "serve_argument_unknown",
        "policy/configurations",
        SERVICE,
        "servin",
        replace(SERVICE, "spec", "serveConfigV2", before="config:", after="servin.port: 1\n      config:"),
    ),
    Mistake(
        "configuration_typo",
        "policy/configurations",
        JOB,
        "replcas",
        replace("ConfigMap/cotray-config", "data", "cotray.yaml", before="replicas", after="replcas"),
    ),
    Mistake(
        "nothing_to_assess",
        "policy/configurations",
        "RayJob/cotray-assess",
        "assessing.measures is empty",
        replace("ConfigMap/cotray-config", "data", "cotray.yaml", before="[surface, quals]", after="[]"),
    ),
    Mistake(
        "variable_unset",
        "policy/configurations",
        JOB,
        "COTRAY_DIR",
        replace(
            "ConfigMap/cotray-config", "data", "cotray.yaml", before="COTRAY_RUN_DIR", after="COTRAY_DIR"
        ),
    ),
)

CAPACITY = (
    Mistake(
        "driver_anywhere", "policy/capacity", JOB, "teacher-spot", put(*RUN, "entrypointResources", to="{}")
    ),
    Mistake(
        "driver_on_the_head", "policy/capacity", JOB, "on the head", put(*RUN, "entrypointNumCpus", to=0)
    ),
    Mistake(
        "driver_nowhere",
        "policy/capacity",
        JOB,
        "no group",
        put(*RUN, "entrypointResources", to='{"drivers": 1}'),
    ),
    Mistake("spot_last", "policy/capacity", JOB, "teacher-spot", put(*SPOT_TEACHER, "priority", to=0)),
    Mistake(
        "teachers_without_room",
        "policy/capacity",
        JOB,
        "room for 10",
        replace("ConfigMap/cotray-config", "data", "cotray.yaml", before="max: 10", after="max: 11"),
    ),
    Mistake(
        "replica_larger_than_a_pod",
        "policy/capacity",
        JOB,
        "room for 0",
        replace(
            "ConfigMap/cotray-config",
            "data",
            "cotray.yaml",
            before="num_cpus: 6\n  num_gpus: 1",
            after="num_cpus: 9",
        ),
    ),
    Mistake(
        "assessors_without_room",
        "policy/capacity",
        "RayJob/cotray-assess",
        "assessing needs 40 of",
        replace("ConfigMap/cotray-config", "data", "cotray.yaml", before="max: 4}", after="max: 40}"),
    ),
    Mistake(
        "label_of_no_group",
        "policy/capacity",
        JOB,
        "teachers",
        replace(
            "ConfigMap/cotray-config", "data", "cotray.yaml", before="role: teacher}", after="role: teachers}"
        ),
    ),
    Mistake(
        "trainers_on_spot",
        "policy/capacity",
        JOB,
        "may land on spot",
        replace(
            "ConfigMap/cotray-config",
            "data",
            "cotray.yaml",
            before="role: trainer, ray.io/market-type: on-demand}",
            after="role: teacher}",
        ),
    ),
    Mistake(
        "serving_without_room",
        "policy/capacity",
        SERVICE,
        "GPU",
        replace("ConfigMap/cotray-config", "data", "cotray.yaml", before="max: 3}", after="max: 30}"),
    ),
)
