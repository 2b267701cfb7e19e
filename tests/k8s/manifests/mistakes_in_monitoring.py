"""What Prometheus would not find."""

from __future__ import annotations

from .mistake import Mistake, put

ENDPOINTS = ("PodMonitor/cotray", "spec", "podMetricsEndpoints")
MONITORING = (
    Mistake(
        "monitor_with_an_unknown_key",
        "monitoring/schema",
        "PodMonitor/cotray",
        "spec.podMetricsEndpoints.0.prt",
        put(*ENDPOINTS, 0, "prt", to="metrics"),
    ),
    Mistake(
        "monitor_with_a_bad_interval",
        "monitoring/schema",
        "PodMonitor/cotray",
        "interval",
        put(*ENDPOINTS, 0, "interval", to="often"),
    ),
    Mistake(
        "monitor_of_no_pod",
        "monitoring/targets",
        "PodMonitor/cotray",
        "selects no pod",
        put("PodMonitor/cotray", "spec", "selector", "matchLabels", to={"app": "other"}),
    ),
    Mistake(
        "monitor_of_a_port_without_a_name",
        "monitoring/targets",
        "PodMonitor/cotray",
        "no pod has a port metric",
        put(*ENDPOINTS, 0, "port", to="metric"),
    ),
    Mistake(
        "monitor_shut_out",
        "monitoring/targets",
        "PodMonitor/cotray",
        "Prometheus cannot reach",
        put("NetworkPolicy/ray", "spec", "ingress", 3, "ports", 0, "port", to=8081),
    ),
)
