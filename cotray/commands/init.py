"""cotray init DATA [-o cotray.yaml] [--force]: a configuration for data of one's own.

Looks at the first rows of a file, a folder, s3:// or hf:ID, prints what it understood, and writes a short
YAML file with comments: the mapping of the columns, or what has to be filled in where no mapping fits, and
models for a CPU with what to write on a GPU. Exit codes: 0 written, 2 wrong usage, data that cannot be read,
or a file that is there already.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from cotray.commands.command import reported
from cotray.errors import ConfigError

NUM_SHOWN = 2


def main(argv: Sequence[str] | None = None, *, prog: str = "cotray init") -> int:
    arguments = parser(prog).parse_args(argv)
    return reported(lambda: _init(arguments.data, Path(arguments.out), is_forced=arguments.force))


def parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description="Look at the first rows of data and write a configuration for them."
    )
    add = parser.add_argument
    add("data", metavar="DATA", help="a file, folder or pattern, s3://... or hf:ID")
    add("-o", "--out", default="cotray.yaml", metavar="FILE", help="what is written (default cotray.yaml)")
    add("--force", action="store_true", help="overwrite the file if it is there")
    return parser


def _init(data: str, target: Path, *, is_forced: bool) -> str:
    if target.exists() and not is_forced:
        raise ConfigError(f"{target}: is there already; --force overwrites it, -o names another file")
    from cotray.commands.first_config import first_config
    from cotray.data.first_look import SEED, first_look
    from cotray.data.preview import block

    found = first_look(data)
    try:
        target.write_text(first_config(found, str(target)), encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{target}: cannot be written ({error.strerror}); name another file with -o"
        ) from None
    shown = [block(origin, row, found.config, seed=SEED) for origin, row in found.rows[:NUM_SHOWN]]
    command = f"cotray prepare -c {shlex.quote(str(target))}"
    if not found.num_understood:
        said = (
            f"wrote {target}; say in its data.columns which column is the question and which the answer, then"
        )
        return "\n\n".join([*shown, f"{said}\n    {command} --show {NUM_SHOWN}"])
    summary = f"{found.num_understood} of the first {len(found.rows)} rows are understood, as {found.read_as}"
    guess = "; the mapping is a guess from the names of the columns" if found.is_guess else ""
    return "\n\n".join([*shown, f"{summary}{guess}\nwrote {target}; look at it, then\n    {command}"])
