"""What all commands share: the arguments for a configuration, and how an outcome becomes an exit code."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cotray.config.references import hidden
from cotray.errors import ConfigError, DataError, cotray_error

if TYPE_CHECKING:
    from cotray.config import RunConfig


def add_config(
    parser: argparse.ArgumentParser,
    *,
    metavar: str = "CONFIG",
    text: str = "a YAML file; `cotray init` writes one",
) -> None:
    parser.add_argument("-c", "--config", required=True, metavar=metavar, help=text)


def add_overrides(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=text)


def add_overwrite_and_wait(parser: argparse.ArgumentParser, what_is_overwritten: str) -> None:
    parser.add_argument("--overwrite", action="store_true", help=what_is_overwritten)
    text = "until another process has ended that does the same here"
    parser.add_argument("--wait", action="store_true", help=text)


def configured(path: str, overrides: Sequence[str]) -> RunConfig:
    """The configuration, with its storage made known to this process."""
    from cotray.config import load_config

    config = load_config(path, overrides)
    from cotray.storage.filesystems import environment

    os.environ.update(environment(config.storage))
    return config


def reported(work: Callable[[], str]) -> int:
    """Print the summary, or the error as one line; returns the exit code."""
    try:
        print(work())
    except KeyboardInterrupt:
        print("cotray: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except Exception as error:
        known = cotray_error(error)
        if known is None:
            text = "".join(traceback.format_exception(error))
            if hidden(text) == text:
                raise
            print(hidden(text), end="", file=sys.stderr)
            return 1
        print(f"cotray: {hidden(str(known))}", file=sys.stderr)
        return 2 if isinstance(known, ConfigError | DataError) else 1
    return 0
