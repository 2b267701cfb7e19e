"""cotray plan -c CONFIG --rows N [--gpus 8,64,512 | --deadline-hours H] [KEY=VALUE ...]

How many GPUs, hours and how much money a run takes, by simulation of what cotray does on nodes that take
time to come and are taken away. No Ray, no GPU. Exit codes: 0 answered, 2 wrong usage or configuration, or a
deadline that no fleet meets.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cotray.commands.command import add_config, add_overrides, configured, reported
from cotray.errors import ConfigError

if TYPE_CHECKING:
    from cotray.config import RunConfig
    from cotray.planning.run_simulation import Assumptions


def main(argv: Sequence[str] | None = None, *, prog: str = "cotray plan") -> int:
    arguments = parser(prog).parse_intermixed_args(argv)
    return reported(lambda: _answer(arguments, configured(arguments.config, arguments.overrides)))


def parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description="GPUs, hours and money for a number of rows, by simulation."
    )
    add = parser.add_argument
    add_config(parser)
    add("--rows", type=int, required=True, metavar="N", help="questions")
    add(
        "--gpus",
        metavar="N,N",
        help="fleets to compare, as numbers of teacher GPUs; default: the configuration's",
    )
    add("--deadline-hours", type=float, metavar="H", help="find the smallest fleet that is done by then")
    add("--json", metavar="FILE", help="write the figures as one flat JSON object; - = last line")
    add("--plot", metavar="FILE", help="hours and GPU time over the number of GPUs, .png, .svg or .pdf")
    add_overrides(parser, "such as teacher.batch_size=512")

    add = parser.add_argument_group("rates (of one replica or training worker)").add_argument
    add("--bench", metavar="FILE", help="what `cotray bench teacher --json FILE` measured")
    add(
        "--teacher-tokens-per-s",
        type=float,
        metavar="R",
        help="rationale tokens; overrides the measured rate",
    )
    add(
        "--tokens-per-rationale",
        type=float,
        metavar="N",
        help="default: as measured, else decoding.max_new_tokens",
    )
    add("--train-tokens-per-s", type=float, metavar="R", help="without it train is not included")
    add("--tokens-per-example", type=float, metavar="N", help="default: student.training.max_length")
    add("--assessments-per-s", type=float, metavar="R", help="rationales through all of assessing.measures")
    add("--answers-per-s", type=float, metavar="R", help="students' answers, interventions included")
    add("--simulator-tokens-per-s", type=float, metavar="R", help="training the simulator")
    add("--simulations-per-s", type=float, metavar="R", help="questions simulated")

    add = parser.add_argument_group("nodes and prices").add_argument
    markets = ["spot", "spot-first", "on-demand"]
    add(
        "--market",
        choices=markets,
        default="spot",
        help="spot-first replaces a lost node on demand (default spot)",
    )
    add("--gpus-per-node", type=int, metavar="N", help="default: as many as a replica needs")
    add("--node-start-min", type=float, default=6, metavar="T", help="median (default 6)")
    add(
        "--node-start-p90-min",
        type=float,
        metavar="T",
        help="one in ten takes longer (default 1.5 times that)",
    )
    add("--load-min", type=float, default=3, metavar="T", help="a replica's model (default 3)")
    add(
        "--interruptions-per-hour",
        type=float,
        default=0.05,
        metavar="R",
        help="of a spot node (default 0.05)",
    )
    add(
        "--spot-return-min",
        type=float,
        default=15,
        metavar="T",
        help="until there is another, mean (default 15)",
    )
    add("--idle-timeout-s", type=float, default=60, metavar="T", help="of the autoscaler (default 60)")
    add("--price-spot", type=float, metavar="P", help="of a GPU-hour")
    add("--price-on-demand", type=float, metavar="P", help="of a GPU-hour")
    add("--runs", type=int, default=40, metavar="N", help="simulated runs of each fleet (default 40)")
    return parser


def _answer(arguments: argparse.Namespace, config: RunConfig) -> str:
    from cotray.planning.plan import estimate, smallest_fleet
    from cotray.planning.plan_plot import check_plot_path, write_plot
    from cotray.planning.plan_text import figures, text

    _check(arguments)
    if arguments.plot:
        check_plot_path(arguments.plot)
    assumptions = _assumptions(arguments, config)
    per_node = assumptions.nodes.gpus
    deadline = arguments.deadline_hours
    smallest = smallest_fleet(assumptions, deadline) if deadline else None
    if arguments.gpus:
        sizes = [int(size) for size in arguments.gpus.split(",")]
    elif smallest:
        sizes = [max(per_node, math.ceil(smallest.gpus * share)) for share in (0.25, 0.5, 1, 2)]
    else:
        sizes = [math.ceil(config.teacher.max_replicas / assumptions.nodes.replicas) * per_node]
    fleets = {smallest.gpus: smallest} if smallest else {}
    for size in set(sizes) - fleets.keys():
        one = estimate(assumptions, size)
        fleets.setdefault(one.gpus, one)
    estimates = [fleets[gpus] for gpus in sorted(fleets)]
    shown = {"deadline_hours": deadline, "smallest": smallest}
    answer = text(assumptions, estimates, **shown)
    if arguments.plot:
        write_plot(arguments.plot, estimates, deadline_hours=deadline)
    if arguments.json:
        flat = json.dumps(
            figures(assumptions, estimates, **shown), indent=None if arguments.json == "-" else 1
        )
        if arguments.json == "-":
            return f"{answer}\n{flat}"
        Path(arguments.json).write_text(f"{flat}\n", encoding="utf-8")
    return answer


def _check(arguments: argparse.Namespace) -> None:
    """ConfigError, in one line, for a number that means nothing."""
    positive = ("rows", "deadline_hours", "gpus_per_node", "runs", "train_tokens_per_s", "tokens_per_example")
    positive += ("assessments_per_s", "answers_per_s", "simulator_tokens_per_s", "simulations_per_s")
    not_negative = ("node_start_min", "node_start_p90_min", "load_min", "interruptions_per_hour")
    not_negative += ("spot_return_min", "idle_timeout_s", "price_spot", "price_on_demand")
    for name, least, is_right in [
        *((name, "above 0", lambda value: value > 0) for name in positive),
        *((name, "0 or more", lambda value: value >= 0) for name in not_negative),
    ]:
        value = getattr(arguments, name)
        if value is not None and not (is_right(value) and math.isfinite(value)):
            raise ConfigError(f"--{name.replace('_', '-')} {value:g}: must be {least}")
    sizes = (arguments.gpus or "1").split(",")
    if not all(size.strip().isdecimal() and int(size) > 0 for size in sizes):
        raise ConfigError(f"--gpus {arguments.gpus}: give numbers above 0, such as --gpus 8,64,512")


def _assumptions(arguments: argparse.Namespace, config: RunConfig) -> Assumptions:
    from cotray.planning.fleet import Nodes
    from cotray.planning.measured_rates import teacher_rates
    from cotray.planning.run_simulation import Assumptions, Rates, gpus_of, on_nodes

    tokens_per_s, tokens_per_rationale = teacher_rates(
        config,
        arguments.bench,
        tokens_per_s=arguments.teacher_tokens_per_s,
        tokens_per_rationale=arguments.tokens_per_rationale,
    )
    rates = Rates(
        tokens_per_s,
        tokens_per_rationale,
        assessments_per_s=arguments.assessments_per_s,
        train_tokens_per_s=arguments.train_tokens_per_s,
        tokens_per_example=arguments.tokens_per_example or config.student.training.max_length,
        answers_per_s=arguments.answers_per_s,
        simulator_tokens_per_s=arguments.simulator_tokens_per_s,
        simulations_per_s=arguments.simulations_per_s,
    )
    num_gpus = gpus_of(config.teacher, key="teacher.pools")
    start_p90_min = arguments.node_start_p90_min
    nodes = Nodes(
        market=arguments.market,
        start_s=60 * arguments.node_start_min,
        start_p90_s=60 * (1.5 * arguments.node_start_min if start_p90_min is None else start_p90_min),
        load_s=60 * arguments.load_min,
        interruptions_per_hour=arguments.interruptions_per_hour,
        return_s=60 * arguments.spot_return_min,
        idle_s=arguments.idle_timeout_s,
        gpus=arguments.gpus_per_node or max(1, math.ceil(num_gpus)),
    )
    prices = {"spot": arguments.price_spot, "on-demand": arguments.price_on_demand}
    return Assumptions(
        config,
        arguments.rows,
        rates,
        on_nodes(nodes, num_gpus, key="teacher.num_gpus"),
        {market: price for market, price in prices.items() if price is not None},
        arguments.runs,
    )
