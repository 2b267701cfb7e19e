# PYTHON_ARGCOMPLETE_OK
"""The command line: `cotray VERB ...`, the same as `python -m jobs.VERB ...` in a clone."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Sequence

from cotray.commands.verbs import VERBS, main_of


def main(argv: Sequence[str] | None = None) -> int:
    """The console script `cotray`."""
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what could be typed next
        from cotray.commands.completion import complete

        complete(parser())
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and argv[0] in VERBS:
        return job(argv[0], argv[1:], prog=f"cotray {argv[0]}")
    if argv and not argv[0].startswith("-"):
        near = difflib.get_close_matches(argv[0], VERBS, n=1)
        way_out = f"did you mean '{near[0]}'?" if near else "`cotray --help` lists them"
        parser().error(f"there is no verb '{argv[0]}'; {way_out}")
    if parser().parse_args(argv).version:
        from importlib.metadata import version

        print(f"cotray {version('cotray')}")
        return 0
    parser().print_help(sys.stderr)
    return 2


def job(verb: str, argv: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """One verb from arguments to exit code; `python -m jobs.VERB` calls this."""
    return main_of(verb)(argv, prog=prog or f"python -m jobs.{verb}")


def parser() -> argparse.ArgumentParser:
    """Of what stands before the verb."""
    parser = argparse.ArgumentParser(
        prog="cotray",
        usage="cotray VERB ...",
        description="Distil faithful chain-of-thought students on Ray.",
        epilog="verbs, each with a --help of its own:\n"
        + "\n".join(f"  {verb:<12}{text}" for verb, text in VERBS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("verb", nargs="?", choices=VERBS, metavar="VERB", help="one of the verbs below")
    parser.add_argument("--version", action="store_true", help="print the version")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
