"""Dashboard, alerts and monitors: do the metrics exist, does Prometheus accept them, do the alerts fire?"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.observe import MONITORING, alerts, graphs, links, scraping

needs_promtool = pytest.mark.skipif(
    not shutil.which("promtool"), reason="promtool (Debian: prometheus) is absent"
)


METRIC = r"\b(?:ray|autoscaler)_\w+"


def expressions() -> list[str]:
    return [
        *(expression for row in graphs().values() for expression in row),
        *(rule["expr"] for group in alerts()["groups"] for rule in group["rules"]),
    ]


def known_metrics() -> set[str]:
    """As cotray's code declares them, and as Ray's own dashboards use them."""
    from cotray.pools.prometheus_metrics import COUNTERS, GAUGES

    declared = {f"ray_cotray_{name}_total" for name in COUNTERS} | {f"ray_cotray_{name}" for name in GAUGES}
    monitor = (Path(__file__).parents[2] / "cotray/deployments/las_monitor.py").read_text()
    body = monitor[monitor.index("def _gauges") :]
    declared |= {f"ray_cotray_live_{name}" for name in re.findall(r'^        "(\w+)": "', body, re.M)}
    spec = importlib.util.find_spec("ray")
    assert spec and spec.origin
    dashboards = Path(spec.origin).parent.glob("dashboard/modules/metrics/dashboards/*.py")
    return declared | {name for path in dashboards for name in re.findall(METRIC, path.read_text())}


def test_every_metric_in_dashboard_and_alerts_is_one_that_cotray_or_ray_exports() -> None:
    known = known_metrics()
    assert {"ray_cotray_rows_total", "ray_cotray_live_las_low", "ray_serve_num_http_requests_total"} <= known
    for expression in expressions():
        without_labels = re.sub(r"\{[^}]*\}|by \([^)]*\)", "", expression)
        names = set(re.findall(METRIC, without_labels))
        assert names and names <= known, (expression, names - known)


def test_the_dashboard_shows_every_metric_of_cotrays_own() -> None:
    shown = {name for row in graphs().values() for e in row for name in re.findall(r"\bray_cotray_\w+", e)}
    assert shown == {name for name in known_metrics() if name.startswith("ray_cotray_")}


def test_panels_have_ids_and_places_of_their_own() -> None:
    panels = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, panel["gridPos"]["y"])
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
    ]
    assert len(set(cells)) == len(cells) and max(x for x, _ in cells) < 24


def promtool(tmp_path: Path, command: str, kind: str, content: dict[str, Any]) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(alerts()))
    path = tmp_path / f"{kind}.yaml"
    path.write_text(yaml.safe_dump(content))
    result = subprocess.run(
        ["promtool", command, kind, str(path)], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert result.returncode == 0, result.stdout + result.stderr


@needs_promtool
def test_prometheus_accepts_its_configuration_the_alerts_and_every_panels_expression(tmp_path: Path) -> None:
    promtool(tmp_path, "check", "rules", alerts())
    recorded = [{"record": f"panel:{i}", "expr": e} for i, e in enumerate(expressions())]
    promtool(tmp_path, "check", "rules", {"groups": [{"name": "panels", "rules": recorded}]})
    promtool(tmp_path, "check", "config", scraping("http://127.0.0.1:8265", "0" * 64))


CASES = {
    # alert: (series that fire it after an hour, the labels of the alert, series that do not)
    "CotrayStalled": (
        {
            'ray_cotray_queue_depth{stage="rationales"}': "500x90",
            'ray_cotray_rows_total{stage="rationales"}': "7x90",
        },
        {"stage": "rationales", "severity": "warning"},
        {
            'ray_cotray_queue_depth{stage="rationales"}': "500x90",
            'ray_cotray_rows_total{stage="rationales"}': "0+1x90",
        },
    ),
    "CotrayErrorRate": (
        {
            'ray_cotray_dead_letters_total{stage="rationales"}': "0+1x90",
            'ray_cotray_rows_total{stage="rationales"}': "0+10x90",
        },
        {"stage": "rationales", "severity": "warning"},
        {
            'ray_cotray_dead_letters_total{stage="rationales"}': "0+1x90",
            'ray_cotray_rows_total{stage="rationales"}': "0+100x90",
        },
    ),
    "CotrayReplicasLost": (
        {
            'ray_cotray_replica_starts_total{stage="answers"}': "0+1x90",
            'ray_cotray_replicas{stage="answers"}': "4x90",
        },
        {"stage": "answers", "severity": "warning"},
        {
            'ray_cotray_replica_starts_total{stage="answers"}': "4x90",
            'ray_cotray_replicas{stage="answers"}': "4x90",
        },
    ),
    "CotrayUnfaithful": (
        {'ray_cotray_live_alarm{version="v2"}': "1x90"},
        {"version": "v2", "severity": "critical"},
        {'ray_cotray_live_alarm{version="v2"}': "0x90"},
    ),
    "CotrayFaithfulnessUnknown": (
        {'ray_cotray_live_stale{version="v2"}': "1x90"},
        {"version": "v2", "severity": "warning"},
        {'ray_cotray_live_stale{version="v2"}': "0x90"},
    ),
    "CotrayFailedRequests": (
        {
            'ray_serve_num_http_error_requests_total{application="cotray",error_code="503"}': "0+10x90",
            'ray_serve_num_http_requests_total{application="cotray"}': "0+100x90",
        },
        {"severity": "critical"},
        {
            'ray_serve_num_http_error_requests_total{application="cotray",error_code="429"}': "0+10x90",
            'ray_serve_num_http_requests_total{application="cotray"}': "0+100x90",
        },
    ),
    "CotraySlow": (
        {
            'ray_serve_http_request_latency_ms_bucket{application="cotray",le="30000"}': "0+90x90",
            'ray_serve_http_request_latency_ms_bucket{application="cotray",le="60000"}': "0+100x90",
            'ray_serve_http_request_latency_ms_bucket{application="cotray",le="+Inf"}': "0+100x90",
        },
        {"severity": "warning"},
        {
            'ray_serve_http_request_latency_ms_bucket{application="cotray",le="30000"}': "0+100x90",
            'ray_serve_http_request_latency_ms_bucket{application="cotray",le="+Inf"}': "0+100x90",
        },
    ),
}


@needs_promtool
@pytest.mark.parametrize("alert", CASES)
def test_an_alert_fires_on_what_it_is_for_and_not_on_what_is_well(tmp_path: Path, alert: str) -> None:
    def case(series: dict[str, str], fires: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "interval": "1m",
            "input_series": [{"series": name, "values": values} for name, values in series.items()],
            "alert_rule_test": [
                {
                    "eval_time": "1h",
                    "alertname": alert,
                    "exp_alerts": fires,
                }
            ],
        }

    bad, labels, good = CASES[alert]
    # Annotations are part of what promtool compares; they are not part of the claim.
    (tmp_path / "bare.yaml").write_text(yaml.safe_dump(without_annotations(alerts())))
    tests = {"rule_files": ["bare.yaml"], "tests": [case(bad, [{"exp_labels": labels}]), case(good, [])]}
    promtool(tmp_path, "test", "rules", tests)


def without_annotations(rules: dict[str, Any]) -> dict[str, Any]:
    for group in rules["groups"]:
        for rule in group["rules"]:
            del rule["annotations"]
    return rules


def test_every_alert_is_tried_and_says_what_to_do() -> None:
    rules = [rule for group in alerts()["groups"] for rule in group["rules"]]
    assert {rule["alert"] for rule in rules} == set(CASES)
    assert all({"summary", "description"} == set(rule["annotations"]) for rule in rules)


def test_a_link_opens_every_expression_of_a_row_and_variables_are_filled_in() -> None:
    from urllib.parse import parse_qs, urlsplit

    pages = links("http://127.0.0.1:9090")
    assert list(pages) == [
        "Generate and score",
        "Faithfulness of live answers",
        "Endpoint",
        "Cluster",
        "Training",
        "Alerts",
    ]
    for row, expected in graphs().items():
        query = parse_qs(urlsplit(pages[row]).query)
        assert [query[f"g{i}.expr"][0] for i in range(len(expected))] == expected
        assert not any("$" in expression for expression in expected)
