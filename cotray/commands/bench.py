"""cotray bench NAME [--json FILE]: measured ratios, everything side by side in one run.

NAME is `teacher` (rates), `parity` (are both engines equal, token for token), `coupling` (what the choice of
tokens for pairs costs in each step), `generate` (what Ray adds: overhead, scaling, memory, recovery), `plan`
(the capacity planner beside real runs), `serve` (what HTTP and Ray Serve add, and overload), `attack` (how
long one client can silence the service), `soak` (whether memory, descriptors, threads and files grow in a
long run, with replicas and nodes killed), `storage` (requests to S3, and the load of driver and monitor),
`run` (where the time of the demo goes: start, work and end of each stage), `planted` (what each measure of
faithfulness says of students whose faithfulness was set), `train` (the trainer beside a bare loop, TRL and
SCOTT's padding) or `train-data` (memory, tokenizing and the first step of training, up to a million
examples). FILE gets one flat JSON object; `-` prints it as the last line of standard output. What a GPU does
with the teacher and with training is measured by `device`, which needs neither pydantic nor Ray nor vLLM.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def main(argv: Sequence[str] | None = None, *, prog: str = "cotray bench") -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] == ["device"]:  # has options of its own, and runs without the libraries of the others
        from cotray.bench.device import main as bench_device

        return bench_device(argv[1:], prog=f"{prog} device")

    arguments = parser(prog).parse_args(argv)
    figures = (_of_a_whole_part if arguments.name in WHOLE_PARTS else _of_a_model)(arguments)
    _write(figures, arguments.json)
    return 0 if _is_right(figures, arguments) else 1


WHOLE_PARTS = (
    "generate",
    "coupling",
    "train",
    "train-data",
    "plan",
    "run",
    "attack",
    "soak",
    "storage",
    "planted",
)
"""Benchmarks that bring their own models."""


def _of_a_whole_part(arguments: argparse.Namespace) -> dict[str, Any]:
    match arguments.name:
        case "generate":
            from cotray.bench.generate import bench_generate

            return bench_generate()
        case "coupling":
            from cotray.bench.coupling import bench_coupling

            return bench_coupling()
        case "train":
            from cotray.bench.train import bench_train

            return bench_train(data=arguments.data, num_timed=arguments.rounds)
        case "train-data":
            from cotray.bench.train_data import bench_train_data

            return bench_train_data()
        case "plan":
            from cotray.bench.plan import bench_plan

            return bench_plan()
        case "run":
            from cotray.bench.run import bench_run

            return bench_run()
        case "attack":
            from cotray.bench.attack import bench_attack

            return bench_attack(seconds=arguments.seconds)
        case "soak":
            from cotray.bench.soak import bench_soak

            return bench_soak(minutes=arguments.minutes)
        case "storage":
            from cotray.bench.storage import bench_storage

            return bench_storage()
    from cotray.bench.planted import bench_planted

    return bench_planted(
        num_seeds=arguments.seeds,
        num_quals=arguments.quals,
        num_processes=arguments.processes,
        plot=arguments.plot,
    )


def _of_a_model(arguments: argparse.Namespace) -> dict[str, Any]:
    from cotray.bench.teacher import bench_teacher, teacher_requests

    if arguments.name == "serve":
        from cotray.bench.serve import NUM_QUESTIONS, bench_serve

        pairs = teacher_requests(arguments.data, NUM_QUESTIONS)
        return bench_serve(model=arguments.model, pairs=pairs, num_rounds=arguments.rounds)

    requests = teacher_requests(arguments.data, arguments.questions)
    if arguments.name == "assess":
        from cotray.bench.assess import bench_assess

        return bench_assess(model=arguments.model, requests=requests)
    if arguments.name == "parity":
        from cotray.bench.parity import bench_parity

        return bench_parity(model=_complete(arguments.model), requests=requests)
    settings = {"model": arguments.model, "num_rounds": arguments.rounds, "max_pairs": arguments.max_pairs}
    if arguments.engines == "transformers":
        return bench_teacher(requests=requests, **settings)
    from cotray.bench.engines import bench_engines

    return bench_engines(requests=requests, dtype=arguments.dtype, **settings)


def _is_right(figures: dict[str, Any], arguments: argparse.Namespace) -> bool:
    """What is compared must be equal, tokens of engines in float32 alone."""
    if arguments.name == "serve":
        return figures["answers_equal"] and not figures["failed"]
    return figures.get("tokens_equal", True) or arguments.dtype != "float32"


def parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description="Measure cotray on this machine.")
    parser.add_argument(
        "name",
        choices=[
            "teacher",
            "parity",
            "coupling",
            "generate",
            "plan",
            "serve",
            "attack",
            "soak",
            "storage",
            "assess",
            "run",
            "planted",
            "train",
            "train-data",
            "device",
        ],
        metavar="NAME",
        help="teacher: rates of the engines; parity: do both engines give the same tokens; coupling: what "
        "choosing tokens for pairs costs beside reading their logits; generate: Ray's overhead, scaling, "
        "memory up to a million requests, recovery; plan: the capacity planner beside real runs; serve: "
        "what HTTP and Ray Serve add, behaviour at twice the saturating rate; attack: how long a route "
        "is silent under three attacks; soak: what a long run holds while replicas and nodes are killed; "
        "storage: requests to S3, the load of driver and monitor; assess: QUALS beside QAGS; run: start, "
        "work and end of each stage of the demo; planted: measures of faithfulness beside students whose "
        "faithfulness was set; train: steps of the trainer beside a bare loop, TRL and SCOTT's padding; "
        "train-data: memory, tokenizing and the first step of training, up to a million examples; "
        "device: teacher and training on one GPU, with options of its own (device --help)",
    )
    parser.add_argument(
        "--json", metavar="FILE", help="write the figures as one flat JSON object; - = last line"
    )
    parser.add_argument("--model", default="embedded:smollm2-135m-instruct", help="of the teacher or student")
    parser.add_argument("--data", default="sample", metavar="PATH", help="questions, as data.path takes them")
    parser.add_argument(
        "--questions", type=int, default=64, help="how many of them (default 64; not of serve)"
    )
    parser.add_argument("--seconds", type=float, default=60, help="of each attack (default 60)")
    parser.add_argument("--minutes", type=float, default=30, help="of each part of soak (default 30)")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved repetitions (default 3)")
    parser.add_argument("--max-pairs", type=int, default=32, help="pairs decoded at once (default 32)")
    parser.add_argument(
        "--engines",
        choices=["transformers", "transformers,vllm"],
        default="transformers",
        help="transformers: beside the one-pair loop and greedy; transformers,vllm: beside each other",
    )
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16"],
        default="float32",
        help="of transformers,vllm; in bfloat16 tokens may differ (default float32)",
    )
    parser.add_argument("--seeds", type=int, default=2, help="students of each kind, for planted (default 2)")
    parser.add_argument(
        "--quals", type=int, default=16, help="questions QUALS judges, for planted; 0 = none (default 16)"
    )
    parser.add_argument("--processes", type=int, default=1, help="side by side, for planted (default 1)")
    parser.add_argument("--plot", metavar="FILE", help="draw the curves of planted as SVG or PNG")
    return parser


def _complete(model: str) -> str:
    """`world:teacher` is that of the world at its defaults."""
    from cotray.config import RunConfig

    return RunConfig.model_validate({"teacher": {"model": model}}).teacher.model


def _write(figures: dict[str, Any], target: str | None) -> None:
    if target == "-":
        print(json.dumps(figures))
    elif target:
        Path(target).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
