"""python -m cluster.observe [--address URL] [--port 9090]: Prometheus over a running Ray cluster.

Scrapes every node that the cluster's dashboard names, loads the alerts of k8s/components/monitoring, and
prints links that open the panels of its Grafana dashboard in Prometheus itself. Ctrl-C ends it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import yaml

from cluster.submit import connect
from cotray.errors import ConfigError

MONITORING = Path(__file__).parent.parent / "k8s/components/monitoring"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m cluster.observe", description="Prometheus over a running Ray cluster."
    )
    parser.add_argument("--address", help="as of cluster.submit")
    parser.add_argument("--port", type=int, default=9090, help="of Prometheus (default 9090)")
    arguments = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        program = shutil.which("prometheus")
        if not program:
            raise ConfigError("no `prometheus` on the PATH; it is in Debian's and Homebrew's packages")
        connect(arguments.address)
        address = os.environ["RAY_API_SERVER_ADDRESS"]
        with tempfile.TemporaryDirectory(prefix="ct-") as folder:
            return _observe(program, address, arguments.port, Path(folder))
    except ConfigError as error:
        print(f"cotray: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0


def _observe(program: str, address: str, port: int, folder: Path) -> int:
    from ray._private.authentication.http_token_authentication import get_auth_headers_if_auth_enabled

    (header,) = get_auth_headers_if_auth_enabled({}).values() or ("",)
    token = header.removeprefix("Bearer ")
    (folder / "rules.yaml").write_text(yaml.safe_dump(alerts()))
    settings = folder / "prometheus.yaml"
    settings.touch(mode=0o600)
    # JSON, since YAML takes some tokens for numbers.
    settings.write_text(json.dumps(scraping(address, token)))
    url = f"127.0.0.1:{port}"
    command = [program, f"--config.file={settings}", f"--storage.tsdb.path={folder}/data"]
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(
            [*command, f"--web.listen-address={url}"], stdout=log, stderr=log, start_new_session=True
        )
        try:
            print(f"Prometheus over {address}; Ctrl-C ends it.\n", flush=True)
            for title, link in links(f"http://{url}").items():
                print(f"{title}\n    {link}", flush=True)
            process.wait()
        finally:
            process.terminate()
            process.wait()
    print(f"cotray: Prometheus ended:\n{(folder / 'prometheus.log').read_text()[-2000:]}", file=sys.stderr)
    return 1


def scraping(address: str, token: str) -> dict[str, Any]:
    """Prometheus' configuration; the dashboard says where the nodes' agents are, to those with the token."""
    discovery: dict[str, Any] = {"url": f"{address}/api/prometheus/sd", "refresh_interval": "5s"}
    if token:
        discovery["authorization"] = {"type": "Bearer", "credentials": token}
    return {
        "global": {"scrape_interval": "5s", "evaluation_interval": "5s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [{"job_name": "ray", "http_sd_configs": [discovery]}],
    }


def alerts() -> dict[str, Any]:
    """The groups of alerts, as Kubernetes gets them."""
    return yaml.safe_load((MONITORING / "rules.yaml").read_text())["spec"]


def graphs() -> dict[str, list[str]]:
    """PromQL of the dashboard's panels, by the row they are in; Grafana's variables are filled in."""
    rows: dict[str, list[str]] = {}
    for panel in json.loads((MONITORING / "dashboard.json").read_text())["panels"]:
        if panel["type"] == "row":
            row = rows[panel["title"]] = []
        for target in panel.get("targets", []):
            expression = target["expr"].replace("$__rate_interval", "1m")
            row.append(expression.replace('ray_io_cluster=~"$cluster"', ""))
    return rows


def links(prometheus: str) -> dict[str, str]:
    """A page of graphs for each row of the dashboard, and the alerts."""
    pages = {}
    for title, expressions in graphs().items():
        query = {}
        for number, expression in enumerate(expressions):
            query |= {f"g{number}.expr": expression, f"g{number}.tab": 0, f"g{number}.range_input": "30m"}
        pages[title] = f"{prometheus}/graph?{urlencode(query)}"
    return pages | {"Alerts": f"{prometheus}/alerts"}


if __name__ == "__main__":
    raise SystemExit(main())
