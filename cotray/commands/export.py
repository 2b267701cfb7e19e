"""cotray export -c CONFIG --to FORMAT --out FOLDER [--push-to-hub REPO [--yes]] [KEY=VALUE ...]

A finished run for other programs: rationales as chat, completion, alpaca or preference data, test questions
as tasks of lm-evaluation-harness (lm-eval), or the student, each with a card. Of a run over several methods,
method=NAME says whose. --push-to-hub shows what would be uploaded, and with --yes uploads it. No Ray. Exit
codes: 0 done, 1 the hub refused, 2 wrong usage, configuration or data.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from cotray.commands.command import add_config, add_overrides, configured, reported
from cotray.errors import ConfigError

FORMATS = ("chat", "completion", "alpaca", "preference", "lm-eval", "student")


def main(argv: Sequence[str] | None = None, *, prog: str = "cotray export") -> int:
    arguments = parser(prog).parse_intermixed_args(argv)
    return reported(lambda: _export(arguments))


def parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description="Write a finished run's results for other programs."
    )
    add = parser.add_argument
    add_config(parser)
    add("--to", required=True, choices=FORMATS, help="what is written")
    add("--out", required=True, metavar="FOLDER", help="a local folder, of this export alone")
    add("--push-to-hub", metavar="REPO", help="such as you/rationales: say what would be uploaded there")
    add("--yes", action="store_true", help="upload it")
    add_overrides(parser, "such as method=greedy")
    return parser


def _export(arguments: argparse.Namespace) -> str:
    from cotray.export.export import STUDENT, export
    from cotray.export.hub import push

    if arguments.yes and not arguments.push_to_hub:
        raise ConfigError("--yes uploads; say where to with --push-to-hub REPO")
    out = Path(arguments.out).expanduser()
    said = export(configured(arguments.config, arguments.overrides), arguments.to, out)
    if not arguments.push_to_hub:
        return said
    repo_type = "model" if arguments.to == STUDENT else "dataset"
    return f"{said}\n{push(out, arguments.push_to_hub, repo_type, is_meant=arguments.yes)}"
