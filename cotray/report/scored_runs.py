"""Which runs of a configuration have figures."""

from __future__ import annotations

from cotray.config import RunConfig
from cotray.storage.run_folder import RunFolder


def scored_runs(config: RunConfig) -> dict[str, RunFolder]:
    """Method -> folder: `run_dir` itself where single verbs made it, or the folders of methods below it."""
    root = RunFolder(config.run_dir)
    if root.manifest("simulations"):
        return {config.method: root}
    below = {method: RunFolder(config.for_method(method).run_dir) for method in config.methods}
    return {method: folder for method, folder in below.items() if folder.manifest("simulations")}
