"""What a stage asks of a cluster's nodes, and whether they have it: told before anything waits for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cotray.config import RayConfig, TrainingConfig
from cotray.config.base import Pool, PoolConfig
from cotray.config.serving import ServingConfig
from cotray.errors import ConfigError


@dataclass(frozen=True)
class Share:
    """What one process takes of a node."""

    num_cpus: float
    num_gpus: float = 0.0
    labels: Mapping[str, str] = field(default_factory=dict)
    """Selectors of Ray: VALUE, !VALUE, in(A,B), !in(A,B)."""

    @classmethod
    def of(cls, section: Pool | TrainingConfig) -> Share:
        return cls(section.num_cpus, section.num_gpus, section.label_selector)

    def __str__(self) -> str:
        gpus = f" + {self.num_gpus:g} GPU" if self.num_gpus else ""
        labels = "".join(f" {key}={value}" for key, value in self.labels.items())
        return f"{self.num_cpus:g} CPU{gpus}{labels}"


@dataclass(frozen=True)
class Need:
    """Processes that have to be there at the same time; several `ways` are choices, one of which will do."""

    key: str
    """Of the configuration."""
    what: str
    """Such as "2 training workers"."""
    ways: tuple[tuple[Share, ...], ...]

    def __str__(self) -> str:
        ways = dict.fromkeys(" and ".join(self._each(way)) for way in self.ways)
        return f"{self.what} with {' or '.join(ways)}"

    @staticmethod
    def _each(way: Sequence[Share]) -> list[str]:
        counted = Counter(map(str, way))
        if len(counted) == 1:
            return [f"{share}{' each' if number > 1 else ''}" for share, number in counted.items()]
        return [f"{number} x {share}" for share, number in counted.items()]

    @property
    def has_gpus(self) -> bool:
        return any(share.num_gpus for way in self.ways for share in way)

    def is_met(self, nodes: Sequence[Node]) -> bool:
        return any(_fits(way, nodes) for way in self.ways)


@dataclass(frozen=True)
class Node:
    num_cpus: float
    num_gpus: float
    labels: Mapping[str, str] = field(default_factory=dict)


def pool_need(key: str, config: PoolConfig) -> Need:
    """Of replicas, which need not come all at once."""
    most = config.max_replicas
    what = f"a replica of {key}" if most == 1 else f"a replica of {key} (of up to {most})"
    return Need(key, what, tuple((Share.of(pool),) for pool in config.all_pools))


def training_need(key: str, config: TrainingConfig) -> Need:
    """Of the fewest training workers, which begin together."""
    least = config.num_workers.min
    workers = f"{least} training workers" if least > 1 else "a training worker"
    return Need(key, workers, ((Share.of(config),) * least,))


def serving_need(config: ServingConfig) -> Need:
    """Of the deployments at their smallest, the HTTP ingress and the monitor of LAS included."""
    num_versions = max(1, len(config.students))
    parts = [Share(1.0)] * 2
    for deployment in (config.student, config.simulator):
        number = max(1, deployment.replicas.min) * num_versions
        parts += [Share(deployment.num_cpus, deployment.num_gpus)] * number
    return Need("serving", f"{len(parts)} processes of the endpoint", (tuple(parts),))


def local_nodes(config: RayConfig) -> list[Node]:
    """The one node of a cluster that `ray.address: local` would start here; nothing is started."""
    from ray._private.accelerators import get_accelerator_manager_for_resource

    manager = get_accelerator_manager_for_resource("GPU")
    num_gpus = 0
    if manager is not None:
        visible = manager.get_current_process_visible_accelerator_ids()
        num_gpus = manager.get_current_node_num_accelerators() if visible is None else len(visible)
    return [Node(config.num_cpus, num_gpus)]


def cluster_nodes() -> list[Node]:
    """Of the cluster that this process has joined."""
    import ray

    return [
        Node(node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0), node.get("Labels", {}))
        for node in ray.nodes()
        if node["Alive"]
    ]


def unmet(need: Need, nodes: Sequence[Node]) -> str | None:
    """What no node has, in words; None where the nodes have it, whether it is free or not."""
    if need.is_met(nodes):
        return None
    cpus, gpus = (f"{sum(getattr(n, name) for n in nodes):g}" for name in ("num_cpus", "num_gpus"))
    largest = max((n.num_cpus for n in nodes), default=0)
    has = f"{cpus} CPU and {gpus} GPU in all" + (f", {largest:g} CPU on one node" if len(nodes) > 1 else "")
    return f"{need.key}: {need} cannot be placed; the cluster has {has}"


def way_out(need: Need, nodes: Sequence[Node]) -> str:
    """For a cluster on this machine, which cannot grow."""
    ways = []
    if need.has_gpus and not any(node.num_gpus for node in nodes):
        ways.append(f"set num_gpus=0 in {need.key}")
    elif any(share.labels for way in need.ways for share in way):
        ways.append(f"leave label_selector out of {need.key}")
    else:
        ways.append(f"lower what {need.key} asks for")
        ways.append("raise ray.num_cpus")
    return f"{', '.join(ways)}, or name a cluster that has it (RAY_ADDRESS)"


def check_own_cluster(need: Need) -> None:
    """Raises ConfigError where the cluster is this process's own, which cannot grow, and lacks `need`."""
    from cotray.pools.ray_cluster import can_grow

    nodes = cluster_nodes()
    if not can_grow() and (problem := unmet(need, nodes)):
        raise ConfigError(f"{problem}; {way_out(need, nodes)}")


def _fits(shares: Sequence[Share], nodes: Sequence[Node]) -> bool:
    """Whether all can be placed at once, the largest first, each on the first node that has room."""
    left = [[node.num_cpus, node.num_gpus] for node in nodes]
    for share in sorted(shares, key=lambda share: (share.num_gpus, share.num_cpus), reverse=True):
        for place, node in zip(left, nodes, strict=True):
            has_room = place[0] >= share.num_cpus and place[1] >= share.num_gpus
            if has_room and all(_is_matched(node.labels.get(k), v) for k, v in share.labels.items()):
                place[0] -= share.num_cpus
                place[1] -= share.num_gpus
                break
        else:
            return False
    return True


def _is_matched(value: str | None, selector: str) -> bool:
    """Ray's selectors; a node without the label is matched by none but the negated ones."""
    wanted = selector.removeprefix("!")
    values = wanted[3:-1].split(",") if wanted.startswith("in(") and wanted.endswith(")") else [wanted]
    is_in = value in [one.strip() for one in values]
    return is_in != selector.startswith("!")
