"""python -m jobs.annotate export -c CONFIG --out FOLDER [--rationales N] [--annotators K] [KEY=VALUE ...]
python -m jobs.annotate import -c CONFIG --key KEY.json FILE.csv ... [KEY=VALUE ...]

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

from cotray.cli import configured, reported
from cotray.errors import ConfigError


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    commands = {"export": _export, "import": _import}
    if argv and argv[0] in commands:
        return commands[argv[0]](argv[1:])
    parser = argparse.ArgumentParser(
        prog="python -m jobs.annotate",
        description="Let people rate rationales: export forms, fill them, import the files.",
        epilog="--config and the other options: python -m jobs.annotate export --help, import --help",
    )
    parser.add_argument("command", choices=commands)
    parser.parse_args(argv)
    return 2


def _export(argv: Sequence[str]) -> int:
    parser = _parser("export", "Draw rationales and write blinded forms, sheets and their key.")
    add = parser.add_argument
    add("--rationales", type=int, default=25, metavar="N", help="of each method and writer (default 25)")
    add("--annotators", type=int, default=3, metavar="K", help="who each rate all of them (default 3)")
    add(
        "--out", required=True, metavar="FOLDER", help="a local folder for the forms, the sheets and key.json"
    )
    add("overrides", nargs="*", metavar="KEY=VALUE", help="such as run_dir=runs/demo")
    arguments = parser.parse_intermixed_args(argv)

    def work() -> str:
        from cotray.criteria.annotation import export

        return export(
            configured(arguments.config, arguments.overrides),
            Path(arguments.out),
            num_rationales=arguments.rationales,
            num_annotators=arguments.annotators,
        )

    return reported(work)


def _import(argv: Sequence[str]) -> int:
    parser = _parser("import", "Read one filled file per annotator and write criteria.json.")
    add = parser.add_argument
    add("--key", required=True, metavar="KEY.json", help="that the export wrote")
    add(
        "files",
        nargs="+",
        metavar="FILE.csv",
        help="one per annotator; KEY=VALUE overrides may stand between",
    )
    arguments = parser.parse_intermixed_args(argv)

    def work() -> str:
        from cotray.criteria.annotation import import_sheets

        overrides = [text for text in arguments.files if re.match(r"[a-z_.]+=", text)]
        files = [Path(text) for text in arguments.files if text not in overrides]
        if not files:
            raise ConfigError("no FILE.csv; give one filled file per annotator")
        return import_sheets(configured(arguments.config, overrides), Path(arguments.key), files)

    return reported(work)


def _parser(command: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m jobs.annotate {command}", description=description)
    parser.add_argument(
        "-c", "--config", required=True, metavar="CONFIG", help="a YAML file; see jobs/configs/"
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
