"""A whole run for a fleet of teachers: generate, then assess, train, answers, simulator and simulations where
their rates are known, one after the other."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from cotray.config import RunConfig, TrainingConfig
from cotray.config.base import PoolConfig
from cotray.errors import ConfigError
from cotray.planning.fleet import Nodes, Outcome, simulate
from cotray.planning.pool_work import Rows, Work, generate_work, pool_work
from cotray.seeds import seeded

Stage = Literal["generate", "assess", "train", "answers", "simulator", "simulations"]
STAGES: tuple[Stage, ...] = get_args(Stage)
ROWS_PER_CALL = 128
"""As in cotray.stages.score."""
ASSESSED_PER_CALL = 64
"""As in cotray.stages.assess."""
DEV_SHARE_OF_STEP = 1 / 3
"""An example of the dev split costs a forward pass, one that is learned from also a backward pass of two."""


@dataclass(frozen=True)
class Rates:
    """What was measured, or is assumed. A stage with rate None is left out."""

    teacher_tokens_per_s: float
    """Rationale tokens of one teacher replica, over all pairs that it decodes at once."""
    tokens_per_rationale: float
    assessments_per_s: float | None = None
    """Rationales of one replica, all measures together."""
    train_tokens_per_s: float | None = None
    """Of one training worker."""
    tokens_per_example: float = 0.0
    """Prompt, rationale and answer."""
    answers_per_s: float | None = None
    """Questions of one replica, its interventions included."""
    simulator_tokens_per_s: float | None = None
    """Of one training worker."""
    simulations_per_s: float | None = None
    """Questions of one replica."""


@dataclass(frozen=True)
class Assumptions:
    """Everything beside the number of replicas that the answer depends on."""

    config: RunConfig
    questions: int
    rates: Rates
    nodes: Nodes
    """Of teachers; those of the other stages are the same, but on demand."""
    prices: dict[str, float] = field(default_factory=dict)
    """Money for a GPU-hour by market: spot, on-demand. A market that is used and not here: cost unknown."""
    num_runs: int = 40


@dataclass(frozen=True)
class Run:
    """One simulated run; `stages` are in the order of the work."""

    stages: dict[Stage, Outcome]

    @property
    def hours(self) -> float:
        return sum(stage.seconds for stage in self.stages.values()) / 3600

    @property
    def gpu_hours(self) -> dict[str, float]:
        """By market."""
        stages = self.stages.values()
        markets = {market for stage in stages for market, seconds in stage.paid.items() if seconds}
        return {market: sum(stage.paid[market] for stage in stages) / 3600 for market in sorted(markets)}

    def cost(self, prices: dict[str, float]) -> float | None:
        """None where the price of a market is not known."""
        if not self.gpu_hours.keys() <= prices.keys():
            return None
        return sum(prices[market] * hours for market, hours in self.gpu_hours.items())


def teacher_work(assumptions: Assumptions, num_replicas: int) -> Work:
    """generate's, as that many replicas find it."""
    return generate_work(
        assumptions.config,
        Rows.of(assumptions.config, assumptions.questions),
        tokens_per_s=assumptions.rates.teacher_tokens_per_s,
        tokens_per_rationale=assumptions.rates.tokens_per_rationale,
        num_replicas=num_replicas,
        num_nodes=math.ceil(num_replicas / assumptions.nodes.replicas),
    )


def simulate_runs(assumptions: Assumptions, num_replicas: int) -> list[Run]:
    """`num_runs` runs that differ in chance alone; the same arguments give the same runs."""
    work = teacher_work(assumptions, num_replicas)
    seed = assumptions.config.seed
    return [
        Run(
            {
                "generate": simulate(work, assumptions.nodes, num_replicas=num_replicas, seed=seed, run=run),
                **dict(_after_generate(assumptions, run)),
            }
        )
        for run in range(assumptions.num_runs)
    ]


def _after_generate(assumptions: Assumptions, run: int) -> Iterator[tuple[Stage, Outcome]]:
    config, rates = assumptions.config, assumptions.rates
    rows = Rows.of(config, assumptions.questions)
    draws = config.num_draws
    if rates.assessments_per_s and config.assessing.measures:
        wanted = rows.assessed(config) * draws
        in_shards = (rows.in_shards if config.counterfactual_weight > 0 else rows.questions) * draws
        yield "assess", _pool(assumptions, "assessing", in_shards, wanted, rates.assessments_per_s, run)
    if rates.train_tokens_per_s:
        kinds = 2 if config.counterfactual_weight > 0 else 1
        num_train = rows.questions * rows.train_fraction * kinds * draws
        num_dev = rows.questions * config.data.dev_fraction * draws
        tokens = (num_train + num_dev * DEV_SHARE_OF_STEP) * rates.tokens_per_example
        seconds = tokens / rates.train_tokens_per_s
        yield "train", _train(assumptions, "student", config.student.training, seconds, run)
    if rates.answers_per_s:
        in_shards, wanted = rows.in_shards, rows.questions
        yield "answers", _pool(assumptions, "scoring", in_shards, wanted, rates.answers_per_s, run)
    if rates.simulator_tokens_per_s and config.simulator.mode == "trained":
        num_train = rows.questions * rows.train_fraction
        num_dev = rows.questions * config.data.dev_fraction
        tokens = (num_train + num_dev * DEV_SHARE_OF_STEP) * rates.tokens_per_example
        seconds = tokens / rates.simulator_tokens_per_s
        yield "simulator", _train(assumptions, "simulator", config.simulator.training, seconds, run)
    if rates.simulations_per_s:
        wanted = round(rows.questions * rows.test_fraction)
        in_shards = rows.questions
        yield "simulations", _pool(assumptions, "scoring", in_shards, wanted, rates.simulations_per_s, run)


def included(assumptions: Assumptions) -> dict[Stage, bool]:
    """Which stages have the rates that they need; assess only where it is part of the run."""
    rates = assumptions.rates
    assess: dict[Stage, bool] = {"assess": rates.assessments_per_s is not None}
    return {
        "generate": True,
        **(assess if assumptions.config.assessing.measures else {}),
        "train": rates.train_tokens_per_s is not None,
        "answers": rates.answers_per_s is not None,
        "simulator": rates.simulator_tokens_per_s is not None,
        "simulations": rates.simulations_per_s is not None,
    }


def _train(
    assumptions: Assumptions, section: str, training: TrainingConfig, epoch_s: float, run: int
) -> Outcome:
    """All epochs on a gang that begins with its last node; `epoch_s` is that of one worker."""
    rng = seeded(assumptions.config.seed, str(run), section)
    nodes = on_nodes(assumptions.nodes, training.num_gpus, key=f"{section}.training.num_gpus")
    num_nodes = math.ceil(training.num_workers.max / nodes.replicas)
    start_s = max(nodes.draw_start_s(rng) for _ in range(num_nodes)) + nodes.load_s
    seconds = training.epochs * epoch_s / training.num_workers.max
    gpus, num_gpus = num_nodes * nodes.gpus, training.num_workers.max * training.num_gpus
    outcome = Outcome(start_s + seconds)
    outcome.paid["on-demand"] = (start_s + seconds + nodes.idle_s) * gpus
    outcome.spent |= {"startup": start_s * gpus, "working": seconds * num_gpus}
    outcome.spent["idle"] = outcome.paid["on-demand"] - sum(outcome.spent.values())
    return outcome


def _pool(
    assumptions: Assumptions,
    section: Literal["assessing", "scoring"],
    num_in_shards: int,
    num_wanted: int,
    rows_per_s: float,
    run: int,
) -> Outcome:
    pool: PoolConfig = getattr(assumptions.config, section)
    nodes = on_nodes(assumptions.nodes, gpus_of(pool, key=f"{section}.pools"), key=f"{section}.num_gpus")
    work = pool_work(
        num_in_shards,
        num_wanted,
        batch_size=ASSESSED_PER_CALL if section == "assessing" else ROWS_PER_CALL,
        replica_s=num_wanted / rows_per_s,
        num_replicas=pool.max_replicas,
        num_nodes=math.ceil(pool.max_replicas / nodes.replicas),
    )
    nodes = replace(nodes, market="on-demand")
    seed = assumptions.config.seed
    return simulate(work, nodes, num_replicas=pool.max_replicas, seed=seed, run=run)


def gpus_of(pools: PoolConfig, *, key: str) -> float:
    """GPUs of one replica. ConfigError where pools differ in it, because a plan is of one kind of node."""
    sizes = {pool.num_gpus for pool in pools.all_pools}
    if len(sizes) > 1:
        raise ConfigError(f"{key}: replicas of {sorted(sizes)} GPUs; plan one kind at a time, with {key}=[]")
    return sizes.pop()


def on_nodes(nodes: Nodes, num_gpus: float, *, key: str) -> Nodes:
    """`nodes` with replicas of so many GPUs. ConfigError, which names the `key`, where they do not fit."""
    if not num_gpus:
        raise ConfigError(f"{key}=0: GPUs are what is planned; add {key}=1, as the run on them will have it")
    replicas = int(nodes.gpus / num_gpus)
    if not replicas:
        raise ConfigError(f"{key}={num_gpus:g}: a node has {nodes.gpus}; raise --gpus-per-node")
    return replace(nodes, replicas=replicas)
