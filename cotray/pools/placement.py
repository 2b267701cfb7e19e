"""Waiting for the nodes that training workers need: said on the progress line, and not without end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from cotray.config import TrainingConfig
from cotray.errors import StageError
from cotray.pools.progress import LINE_S
from cotray.pools.ray_cluster import num_nodes
from cotray.pools.resources import Need, check_own_cluster, cluster_nodes, training_need

if TYPE_CHECKING:
    from tqdm import tqdm

POLL_S = 0.5


def until_placed(key: str, training: TrainingConfig) -> Callable[[tqdm], None]:
    """For `training_progress`: `wait_until_placed` of the section `key`."""
    need = training_need(key, training)
    return lambda bar: wait_until_placed(need, bar, stall_timeout_s=training.stall_timeout_s)


def wait_until_placed(need: Need, bar: tqdm, *, stall_timeout_s: float) -> None:
    """Return when all of `need` could be placed at once, which asks an autoscaler for nodes.

    What was placed is given back at once, for Ray Train, which waits silently and without end. Raises
    ConfigError where the cluster is our own and too small, and StageError where no node came for
    `stall_timeout_s`.
    """
    import ray
    from ray.util import placement_group, remove_placement_group

    check_own_cluster(need)
    (shares,) = need.ways
    bundles = [{"CPU": share.num_cpus, "GPU": share.num_gpus} for share in shares]
    bundles = [{kind: n for kind, n in bundle.items() if n} for bundle in bundles]
    if not all(bundles):  # without a CPU, a worker has room everywhere
        return
    labels = [dict(share.labels) for share in shares]
    selectors: dict[str, Any] = {"bundle_label_selector": labels} if any(labels) else {}
    group = placement_group(bundles, **selectors)
    moved = drawn = time.monotonic()
    nodes = num_nodes()
    try:
        while not group.wait(POLL_S):
            now, before, nodes = time.monotonic(), nodes, num_nodes()
            if nodes != before:
                moved = now
            if now - moved > stall_timeout_s:
                raise StageError(_stall(need, stall_timeout_s, ray.available_resources()))
            bar.set_postfix_str(f"waiting for {need}", refresh=False)
            if sys.stderr.isatty() or now - drawn > LINE_S:
                drawn = now
                bar.refresh()
    finally:
        remove_placement_group(group)
    bar.set_postfix_str("", refresh=False)


def _stall(need: Need, timeout_s: float, free: Mapping[str, float]) -> str:
    nodes = cluster_nodes()
    has = f"{sum(n.num_cpus for n in nodes):g} CPU and {sum(n.num_gpus for n in nodes):g} GPU"
    left = f"{free.get('CPU', 0):g} and {free.get('GPU', 0):g}"
    return (
        f"{need.key}: {need} found no room for {timeout_s:g} s ({need.key}.stall_timeout_s), and no node "
        f"came. The cluster has {has} in all, of which {left} are free. The same command goes on from here"
    )
