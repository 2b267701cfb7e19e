"""cotray gate -c CONFIG FIGURE>=FLOOR ... [--baseline RUN_DIR] [KEY=VALUE ...]

For continuous integration of students: of a scored run, every figure's lower bound has its floor, and none is
significantly below that of another run on the same questions. No Ray. Exit codes: 0 all pass, 1 one does not,
2 wrong usage, configuration or data.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from cotray.commands.command import add_config, add_overrides, configured, reported
from cotray.errors import ConfigError, StageError

DEFAULT = ("las", "accuracy")
"""What is compared with a baseline where no figure is named."""


def main(argv: Sequence[str] | None = None, *, prog: str = "cotray gate") -> int:
    arguments = parser(prog).parse_intermixed_args(argv)
    return reported(lambda: _gate(arguments))


def parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description="Exit code 1 where a figure is below its floor, or below that of another run."
    )
    add_config(parser)
    parser.add_argument(
        "--baseline",
        metavar="RUN_DIR",
        default="",
        help="the folder of another method or run, such as runs/x/greedy",
    )
    add_overrides(parser, "floors such as 'las>=0.1', in quotes, and keys such as method=greedy")
    return parser


def _gate(arguments: argparse.Namespace) -> str:
    from cotray.report.gate import Floor, gate

    named = [_floor(word) for word in arguments.overrides if ">=" in word]
    overrides = [word for word in arguments.overrides if ">=" not in word]
    floors = [Floor(*one) for one in named] or [Floor(name, None) for name in DEFAULT if arguments.baseline]
    if not floors:
        raise ConfigError(
            "nothing to check; give a floor such as 'las>=0.1' in quotes, or --baseline RUN_DIR"
        )
    checks = gate(configured(arguments.config, overrides), floors, arguments.baseline)
    lines = [f"{'passes' if check.passes else 'FAILS':6}  {check.text}" for check in checks]
    if failed := sum(not check.passes for check in checks):
        print("\n".join(lines), file=sys.stdout, flush=True)
        raise StageError(f"{failed} of {len(checks)} checks failed")
    return "\n".join(lines)


def _floor(word: str) -> tuple[str, float]:
    from cotray.report.gate import FIGURES

    figure, _, floor = word.partition(">=")
    if figure not in FIGURES:
        raise ConfigError(f"'{word}': a floor is FIGURE>=NUMBER, with one of {', '.join(FIGURES)}")
    try:
        return figure, float(floor)
    except ValueError:
        raise ConfigError(f"'{word}': '{floor}' is not a number") from None
