"""cotray annotate export -c CONFIG --out FOLDER [--rationales N] [--annotators K] [KEY=VALUE ...]
cotray annotate import -c CONFIG --key KEY.json FILE.csv ... [KEY=VALUE ...]

The three human criteria (grammaticality, new information, support of the answer): forms that do not say who
wrote what, and back from the filled files yes-rates and agreement, in criteria.json. No Ray. Exit codes: 0
done, 2 wrong usage, configuration or files.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from cotray.commands.command import add_config, add_overrides, configured, reported
from cotray.errors import ConfigError


def main(argv: Sequence[str] | None = None, *, prog: str = "cotray annotate") -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] not in PARSERS:
        parser(prog).parse_args(argv)
        return 2
    arguments = PARSERS[argv[0]](f"{prog} {argv[0]}").parse_intermixed_args(argv[1:])
    return reported(lambda: (_export if argv[0] == "export" else _import)(arguments))


def parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Let people rate rationales: export forms, fill them, import the files.",
        epilog=f"--config and the other options: {prog} export --help, import --help",
    )
    parser.add_argument("command", choices=PARSERS)
    return parser


def export_parser(prog: str) -> argparse.ArgumentParser:
    text = "Draw rationales and write blinded forms, sheets and their key."
    parser = argparse.ArgumentParser(prog=prog, description=text)
    add_config(parser)
    add = parser.add_argument
    add("--rationales", type=int, default=25, metavar="N", help="of each method and writer (default 25)")
    add("--annotators", type=int, default=3, metavar="K", help="who each rate all of them (default 3)")
    add(
        "--out", required=True, metavar="FOLDER", help="a local folder for the forms, the sheets and key.json"
    )
    add_overrides(parser, "such as run_dir=runs/demo")
    return parser


def import_parser(prog: str) -> argparse.ArgumentParser:
    text = "Read one filled file per annotator and write criteria.json."
    parser = argparse.ArgumentParser(prog=prog, description=text)
    add_config(parser)
    add = parser.add_argument
    add("--key", required=True, metavar="KEY.json", help="that the export wrote")
    add(
        "files",
        nargs="+",
        metavar="FILE.csv",
        help="one per annotator; KEY=VALUE overrides may stand between",
    )
    return parser


PARSERS = {"export": export_parser, "import": import_parser}


def _export(arguments: argparse.Namespace) -> str:
    from cotray.criteria.annotation import export

    return export(
        configured(arguments.config, arguments.overrides),
        Path(arguments.out),
        num_rationales=arguments.rationales,
        num_annotators=arguments.annotators,
    )


def _import(arguments: argparse.Namespace) -> str:
    from cotray.criteria.annotation import import_sheets

    overrides = [text for text in arguments.files if re.match(r"[a-z_.]+=", text)]
    files = [Path(text) for text in arguments.files if text not in overrides]
    if not files:
        raise ConfigError("no FILE.csv; give one filled file per annotator")
    return import_sheets(configured(arguments.config, overrides), Path(arguments.key), files)
