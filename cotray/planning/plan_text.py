"""A plan as text for the terminal, with every assumption beside it, and as one flat JSON object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cotray.planning.plan import LIKELY, PARTS, Estimate, most_replicas
from cotray.planning.pool_work import SEAL_S_PER_SHARD, Rows
from cotray.planning.run_simulation import Assumptions, Stage, included, teacher_work

OPTIONS: dict[Stage, str] = {
    "generate": "--teacher-tokens-per-s",
    "assess": "--assessments-per-s",
    "train": "--train-tokens-per-s",
    "answers": "--answers-per-s",
    "simulator": "--simulator-tokens-per-s",
    "simulations": "--simulations-per-s",
}
HEADER = ["GPUs", "replicas", "hours p50", "p90", "GPU-hours", "cost p50", "p90"]
HEADER += ["start-up", "working", "lost", "idle", "interruptions"]


def text(
    assumptions: Assumptions,
    estimates: Sequence[Estimate],
    *,
    deadline_hours: float | None = None,
    smallest: Estimate | None = None,
) -> str:
    lines = [_headline(assumptions), "", *_table(estimates)]
    for one in estimates if len(estimates[0].stage_hours) > 1 else ():
        parts = ", ".join(f"{stage} {hours:.2f} h" for stage, hours in one.stage_hours.items())
        lines.append(f"with {one.gpus:,} GPUs: {parts} (medians)")
    if smallest is not None:
        lines += [
            "",
            f"smallest fleet that is done within {deadline_hours:g} h in {LIKELY:.0%} of the runs: "
            f"{smallest.gpus:,} GPUs (teacher.replicas.max={smallest.replicas})",
        ]
    lines += ["", "assumed:", *(f"  {line}" for line in assumed(assumptions))]
    left_out = [f"{stage} ({OPTIONS[stage]})" for stage, is_in in included(assumptions).items() if not is_in]
    if left_out:
        lines.append(f"not included, because no rate is given: {', '.join(left_out)}")
    return "\n".join(lines)


def figures(
    assumptions: Assumptions,
    estimates: Sequence[Estimate],
    *,
    deadline_hours: float | None = None,
    smallest: Estimate | None = None,
) -> dict[str, Any]:
    """`gpus_N_...` of each fleet, `smallest_...` of the answer to a deadline, and the assumptions."""
    nodes, rates = assumptions.nodes, assumptions.rates
    flat: dict[str, Any] = {
        "questions": assumptions.questions,
        "method": assumptions.config.method,
        "seed": assumptions.config.seed,
        "runs": assumptions.num_runs,
        "deadline_hours": deadline_hours,
        **vars(rates),
        **{name: value for name, value in vars(nodes).items() if name not in ("gpus", "replicas")},
        "gpus_per_node": nodes.gpus,
        "replicas_per_node": nodes.replicas,
        **{f"price_{market.replace('-', '_')}": price for market, price in assumptions.prices.items()},
        "most_replicas": most_replicas(assumptions),
    }
    for stage, is_in in included(assumptions).items():
        flat[f"includes_{stage}"] = is_in
    for one in estimates:
        flat |= _flat(one, f"gpus_{one.gpus}_")
    return flat | (_flat(smallest, "smallest_") if smallest else {})


def assumed(assumptions: Assumptions) -> list[str]:
    """One line for each thing that was not computed."""
    nodes, rates, config = assumptions.nodes, assumptions.rates, assumptions.config
    work = teacher_work(assumptions, config.teacher.max_replicas)
    instead = "one on demand"
    if nodes.market == "spot":
        instead = f"a spot node, to be had after {nodes.return_s / 60:g} min on average"
    lines = [
        f"a teacher replica ({config.teacher.all_pools[0].num_gpus:g} GPU) writes "
        f"{rates.teacher_tokens_per_s:,g} rationale tokens/s, {rates.tokens_per_rationale:g} per rationale; "
        f"a batch of up to {config.teacher.batch_size} requests takes {work.seconds_per_batch:,.1f} s, with "
        f"{work.batches_at_once} in the model at once",
        f"a node ({nodes.gpus} GPU, {nodes.replicas} replica) starts in {nodes.start_s / 60:g} min (one in "
        f"ten takes more than {max(nodes.start_s, nodes.start_p90_s) / 60:g}), then a model loads for "
        f"{nodes.load_s / 60:g} min",
        "all nodes are on demand and stay"
        if nodes.market == "on-demand"
        else f"{nodes.interruptions_per_hour:.1%} of the spot nodes are taken away per hour; in place of a "
        f"lost one comes {instead}",
        f"nodes are paid from their first second of starting until {nodes.idle_s:g} s after their last work",
        f"a shard of 2,048 rows is sealed in {SEAL_S_PER_SHARD:g} s; the driver and the storage keep up",
        f"at most {most_replicas(assumptions):,} replicas have work: a unit each",
    ]
    prices = ", ".join(f"{price:g} {market}" for market, price in assumptions.prices.items())
    lines.append(f"prices per GPU-hour: {prices or 'not given, so no cost'}")
    if len([stage for stage, is_in in included(assumptions).items() if is_in]) > 1:
        lines.append(
            "the other stages run on demand on their configured number of workers; "
            f"{rates.tokens_per_example:g} tokens per example; all epochs, none stopped early"
        )
    if config.student.conseq:
        lines.append("not included: student.conseq, its samples and its second phase")
    lines.append(f"method {config.method} alone; `run` does every one of `methods`")
    lines.append(f"{assumptions.num_runs} simulated runs, seed {config.seed}")
    return lines


def _headline(assumptions: Assumptions) -> str:
    config, rows = assumptions.config, Rows.of(assumptions.config, assumptions.questions)
    requests = rows.in_shards if config.counterfactual_weight > 0 else rows.questions
    rationales = requests * config.teacher.decoding.num_draws
    work = teacher_work(assumptions, config.teacher.max_replicas)
    gpu_hours = work.replica_s / 3600 * config.teacher.all_pools[0].num_gpus
    return (
        f"{rows.questions:,} questions, {config.method}: {requests:,} requests, {rationales:,} rationales, "
        f"{gpu_hours:,.1f} GPU-hours of decoding"
    )


def _table(estimates: Sequence[Estimate]) -> list[str]:
    rows = [HEADER]
    for one in estimates:
        cost = [f"{value:,.0f}" if value is not None else "-" for value in (one.cost_p50, one.cost_p90)]
        hours = [f"{one.hours_p50:.2f}", f"{one.hours_p90:.2f}", f"{one.gpu_hours:,.0f}"]
        shares = [f"{one.shares[part]:.1%}" for part in PARTS]
        rows.append(
            [f"{one.gpus:,}", f"{one.replicas:,}", *hours, *cost, *shares, f"{one.interruptions:.1f}"]
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def _flat(one: Estimate, prefix: str) -> dict[str, Any]:
    names = (
        "gpus",
        "replicas",
        "hours_p50",
        "hours_p90",
        "gpu_hours",
        "cost_p50",
        "cost_p90",
        "interruptions",
    )
    flat = {f"{prefix}{name}": getattr(one, name) for name in names}
    flat |= {f"{prefix}share_{part}": share for part, share in one.shares.items()}
    return flat | {f"{prefix}hours_{stage}": hours for stage, hours in one.stage_hours.items()}
