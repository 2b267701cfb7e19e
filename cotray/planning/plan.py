"""How many GPUs until a deadline: estimates of fleets from simulated runs, and the search among them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cotray.errors import ConfigError
from cotray.planning.fleet import Nodes
from cotray.planning.pool_work import Rows
from cotray.planning.run_simulation import Assumptions, Run, Stage, simulate_runs, teacher_work

LIKELY = 0.9
"""The deadline is met when so many of the simulated runs meet it."""
QUICK_RUNS = 4
"""Enough to see that not even the largest fleet meets a deadline."""
PARTS = ("startup", "working", "lost", "idle")


@dataclass(frozen=True)
class Estimate:
    """One fleet of teachers, over its simulated runs. Without a price `cost_p50` and `cost_p90` are None."""

    gpus: int
    """Of the teachers' nodes."""
    replicas: int
    hours_p50: float
    hours_p90: float
    gpu_hours: float
    """Median over the runs, of all stages, as paid for."""
    cost_p50: float | None
    cost_p90: float | None
    shares: dict[str, float]
    """Of the GPU-hours: startup, working, lost to interruptions, idle (the tail, and waiting to leave);
    together 1."""
    interruptions: float
    """Mean number of nodes that were taken away."""
    stage_hours: dict[Stage, float]
    """Medians."""


def estimate(assumptions: Assumptions, num_gpus: int) -> Estimate:
    """What a fleet of `num_gpus` teacher GPUs, in whole nodes, takes."""
    nodes = assumptions.nodes
    num_nodes = max(1, num_gpus // nodes.gpus)
    replicas = min(num_nodes * nodes.replicas, most_replicas(assumptions))
    runs = simulate_runs(assumptions, replicas)
    teachers = [run.stages["generate"] for run in runs]
    outcomes = [outcome for run in runs for outcome in run.stages.values()]
    spent = {part: sum(outcome.spent[part] for outcome in outcomes) for part in PARTS}
    costs = [cost for run in runs if (cost := run.cost(assumptions.prices)) is not None]
    return Estimate(
        gpus=num_nodes * nodes.gpus,
        replicas=replicas,
        hours_p50=quantile([run.hours for run in runs], 0.5),
        hours_p90=quantile([run.hours for run in runs], LIKELY),
        gpu_hours=quantile([sum(run.gpu_hours.values()) for run in runs], 0.5),
        cost_p50=quantile(costs, 0.5) if costs else None,
        cost_p90=quantile(costs, LIKELY) if costs else None,
        shares={part: seconds / sum(spent.values()) for part, seconds in spent.items()},
        interruptions=statistics.fmean(outcome.num_interruptions for outcome in teachers),
        stage_hours={stage: _median_hours(runs, stage) for stage in runs[0].stages},
    )


def most_replicas(assumptions: Assumptions) -> int:
    """Replicas beyond this many have nothing to do: not even batches of one row make more units."""
    rows = Rows.of(assumptions.config, assumptions.questions)
    return len(
        teacher_work(assumptions, rows.in_shards * assumptions.config.teacher.decoding.num_draws).units
    )


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed."""
    return sorted(values)[math.ceil(share * len(values)) - 1]


def smallest_fleet(assumptions: Assumptions, deadline_hours: float) -> Estimate:
    """The fewest nodes whose runs meet the deadline as often as LIKELY.

    Raises ConfigError, with the best there is and what it is held up by, where no fleet does.
    """
    nodes = assumptions.nodes
    most = math.ceil(most_replicas(assumptions) / nodes.replicas)
    best = estimate(replace(assumptions, num_runs=QUICK_RUNS), most * nodes.gpus)
    if best.hours_p50 > deadline_hours:
        raise ConfigError(_unreachable(best, deadline_hours, most, nodes))
    found: dict[int, Estimate] = {}

    def hours(num_nodes: int) -> float:
        if num_nodes not in found:
            found[num_nodes] = estimate(assumptions, num_nodes * nodes.gpus)
        return found[num_nodes].hours_p90

    # Fewer cannot: not even with nodes that are there at once and stay.
    work = teacher_work(assumptions, nodes.replicas)
    low = max(1, math.floor(work.replica_s / 3600 / deadline_hours / nodes.replicas))
    high = min(low, most)
    while hours(high) > deadline_hours and high < most:
        low, high = high, min(2 * high, most)
    if hours(high) > deadline_hours:
        best = min(found.values(), key=lambda one: one.hours_p90)
        raise ConfigError(_unreachable(best, deadline_hours, most, nodes))
    while hours(low) > deadline_hours and high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if hours(middle) <= deadline_hours else (middle, high)
    return found[low] if hours(low) <= deadline_hours else found[high]


def _unreachable(best: Estimate, deadline_hours: float, most: int, nodes: Nodes) -> str:
    causes = {
        "starting nodes and models": best.shares["startup"],
        "work lost to interruptions": best.shares["lost"],
        "waiting for the last units": best.shares["idle"],
    }
    shares = ", ".join(f"{name} {share:.0%}" for name, share in causes.items())
    others = sum(hours for stage, hours in best.stage_hours.items() if stage != "generate")
    after = ""
    if others:
        after = f", {others:.2f} h of it in the stages after generate, on their configured number of workers"
    return (
        f"no fleet meets {deadline_hours:g} h in {LIKELY:.0%} of the runs: the best has {best.gpus:,} GPUs "
        f"and takes {best.hours_p90:.2f} h{after}; of its GPU time {shares}; more than "
        f"{most * nodes.gpus:,} GPUs would have no unit of work each. Give it longer, measure a faster "
        "teacher, or shorten --node-start-min and --load-min"
    )


def _median_hours(runs: Sequence[Run], stage: Stage) -> float:
    return quantile([run.stages[stage].seconds / 3600 for run in runs], 0.5)
