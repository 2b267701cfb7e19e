"""serve: the student, the simulator and online LAS as one Ray Serve application, until somebody ends it.

    cotray serve -c CONFIG
    serve run cotray.stages.serve:build_app run_dir=/path/to/run/contrast-wrong
    serve run cotray.stages.serve:build_app config=CONFIG serving.port=9000

A RayService's serveConfigV2 names the same `build_app`, with the same arguments as `args`.
"""

from __future__ import annotations

import contextlib
import signal
import threading

from cotray.config import RunConfig
from cotray.deployments.application import build_app, deployed
from cotray.pools.ray_cluster import cluster
from cotray.stages.preflight import check, tell_what_lacks

__all__ = ["build_app", "serve"]


def serve(config: RunConfig) -> str:
    """Serve until interrupted or terminated; requests under way are finished then."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    check([config], "serve")
    serving = config.serving
    with cluster(config.ray, config.storage):
        tell_what_lacks([config], "serve")
        before = signal.signal(signal.SIGTERM, stop)
        try:
            with contextlib.suppress(KeyboardInterrupt), deployed(config):
                print(f"serving on http://{serving.host}:{serving.port}/v1; Ctrl-C ends it", flush=True)
                threading.Event().wait()
        finally:
            signal.signal(signal.SIGTERM, before)
    return "stopped"
