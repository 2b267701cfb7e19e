"""Until an application of Ray Serve is up: what it waits for is said, and it does not wait without end."""

from __future__ import annotations

import sys
import time
from typing import Any

from ray import serve
from ray.serve.schema import ApplicationStatus, DeploymentStatus

from cotray.errors import StageError

POLL_S = 0.5
LINE_S = 10
"""Between two lines about what is waited for."""


def run(application: serve.Application, name: str, *, stall_timeout_s: float) -> None:
    """Deploy it at the root of the URL, and return when all of its replicas are ready.

    Raises RuntimeError with the reason where a replica cannot be made, and StageError where for
    `stall_timeout_s` none became ready and no node came.
    """
    serve.run_many(
        [serve.RunTarget(application, name=name, route_prefix="/")], wait_for_applications_running=False
    )
    moved = drawn = time.monotonic()
    before: Any = None
    while True:
        overview = serve.status().applications[name]
        if overview.status == ApplicationStatus.RUNNING:
            return
        if overview.status == ApplicationStatus.DEPLOY_FAILED:
            raise RuntimeError(f"Deploying application {name} failed: {overview.message}")
        waiting = {
            deployment: one
            for deployment, one in overview.deployments.items()
            if one.status != DeploymentStatus.HEALTHY
        }
        now, state = time.monotonic(), (sorted(waiting), _num_nodes())
        if state != before:
            before, moved = state, now
        if now - moved > stall_timeout_s:
            raise StageError(
                f"serve: no replica of {', '.join(waiting)} became ready for {stall_timeout_s:g} s "
                f"(serving.stall_timeout_s), and no node came. {_said(waiting)}"
            )
        if now - drawn > LINE_S:
            drawn = now
            print(f"waiting for {', '.join(waiting)}. {_said(waiting)}", file=sys.stderr, flush=True)
        time.sleep(POLL_S)


def _said(waiting: dict[str, Any]) -> str:
    """Serve's own words, each once and in one line."""
    return " ".join(dict.fromkeys(" ".join(one.message.split()) for one in waiting.values() if one.message))


def _num_nodes() -> int:
    import ray

    return sum(node["Alive"] for node in ray.nodes())
