"""python -m jobs.bench NAME [--json FILE]: measured ratios, everything side by side in one run.

NAME is `teacher`. FILE gets one flat JSON object; `-` prints it as the last line of standard output.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m jobs.bench", description="Measure cotray on this machine."
    )
    parser.add_argument(
        "name", choices=["teacher"], metavar="NAME", help="teacher: batched teacher, loop, greedy"
    )
    parser.add_argument(
        "--json", metavar="FILE", help="write the figures as one flat JSON object; - = last line"
    )
    parser.add_argument("--model", default="embedded:smollm2-135m-instruct", help="the teacher's model")
    parser.add_argument("--data", default="sample", metavar="PATH", help="questions, as data.path takes them")
    parser.add_argument("--questions", type=int, default=64, help="how many of them (default 64)")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved repetitions (default 3)")
    parser.add_argument("--max-pairs", type=int, default=32, help="pairs decoded at once (default 32)")
    arguments = parser.parse_args()

    from jobs.bench_teacher import bench_teacher

    figures = bench_teacher(
        model=arguments.model,
        data=arguments.data,
        num_questions=arguments.questions,
        num_rounds=arguments.rounds,
        max_pairs=arguments.max_pairs,
    )
    if arguments.json == "-":
        print(json.dumps(figures))
    elif arguments.json:
        Path(arguments.json).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0 if figures["tokens_equal"] else 1


if __name__ == "__main__":
    sys.exit(main())
