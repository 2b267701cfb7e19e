"""python -m jobs.bench NAME [--json FILE]: measured ratios, everything side by side in one run.

NAME is `teacher` (rates), `parity` (are both engines equal, token for token), `generate` (what Ray adds:
overhead, scaling, memory, recovery), `plan` (the capacity planner beside real runs), `serve` (what HTTP
and Ray Serve add, and overload), `attack` (how long one client can silence the service), `run` (where the
time of the demo goes: start, work and end of each stage) or `planted` (what each measure of faithfulness says
of students whose faithfulness was set). FILE gets one flat JSON object; `-` prints it as the last line of
standard output. What a GPU does with the teacher and with training is measured by `device`, or
jobs.bench.device, which needs neither pydantic nor Ray nor vLLM.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any


def main() -> int:
    if sys.argv[1:2] == ["device"]:  # has options of its own, and runs without the libraries of the others
        from jobs.bench.device import main as bench_device

        return bench_device(sys.argv[2:])

    arguments = _parser().parse_args()
    if arguments.name == "generate":
        from jobs.bench.generate import bench_generate

        _write(bench_generate(), arguments.json)
        return 0

    if arguments.name == "plan":
        from jobs.bench.plan import bench_plan

        _write(bench_plan(), arguments.json)
        return 0

    if arguments.name == "run":
        from jobs.bench.run import bench_run

        _write(bench_run(), arguments.json)
        return 0

    if arguments.name == "attack":
        from jobs.bench.attack import bench_attack

        _write(bench_attack(seconds=arguments.seconds), arguments.json)
        return 0

    if arguments.name == "planted":
        from jobs.bench.planted import bench_planted

        figures = bench_planted(
            num_seeds=arguments.seeds,
            num_quals=arguments.quals,
            num_processes=arguments.processes,
            plot=arguments.plot,
        )
        _write(figures, arguments.json)
        return 0

    from jobs.bench.teacher import bench_teacher, teacher_requests

    if arguments.name == "serve":
        from jobs.bench.serve import NUM_QUESTIONS, bench_serve

        pairs = teacher_requests(arguments.data, NUM_QUESTIONS)
        figures = bench_serve(model=arguments.model, pairs=pairs, num_rounds=arguments.rounds)
        _write(figures, arguments.json)
        return 0 if figures["answers_equal"] and not figures["failed"] else 1

    requests = teacher_requests(arguments.data, arguments.questions)
    if arguments.name == "assess":
        from jobs.bench.assess import bench_assess

        _write(bench_assess(model=arguments.model, requests=requests), arguments.json)
        return 0

    settings = {"model": arguments.model, "num_rounds": arguments.rounds, "max_pairs": arguments.max_pairs}
    if arguments.name == "parity":
        from jobs.bench.parity import bench_parity

        figures = bench_parity(model=_complete(arguments.model), requests=requests)
    elif arguments.engines == "transformers":
        figures = bench_teacher(requests=requests, **settings)
    else:
        from jobs.bench.engines import bench_engines

        figures = bench_engines(requests=requests, dtype=arguments.dtype, **settings)
    _write(figures, arguments.json)
    is_exact = arguments.dtype == "float32"
    return 0 if figures["tokens_equal"] or not is_exact else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jobs.bench", description="Measure cotray on this machine."
    )
    parser.add_argument(
        "name",
        choices=[
            "teacher",
            "parity",
            "generate",
            "plan",
            "serve",
            "attack",
            "assess",
            "run",
            "planted",
            "device",
        ],
        metavar="NAME",
        help="teacher: rates of the engines; parity: do both engines give the same tokens; generate: Ray's "
        "overhead, scaling, memory up to a million requests, recovery; plan: the capacity planner beside "
        "real runs; serve: what HTTP and Ray Serve add, behaviour at twice the saturating rate; attack: "
        "how long a route is silent under three attacks; assess: QUALS beside QAGS; run: start, work and end "
        "of each stage of the demo; planted: measures of faithfulness beside students whose faithfulness was "
        "set; device: teacher and training on one GPU, with options of its own (device --help)",
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


if __name__ == "__main__":
    sys.exit(main())
