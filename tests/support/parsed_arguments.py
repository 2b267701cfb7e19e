"""What a module's own argument parser makes of a command line, without the work behind it."""

from __future__ import annotations

import argparse
import contextlib
import io
import runpy
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import pytest


class _Parsed(Exception):
    """Carries the arguments out of `main`, past everything that would handle an error."""


def arguments_of(module: str, argv: Sequence[str], environment: Mapping[str, str]) -> argparse.Namespace:
    """Of `python -m MODULE ARGV`; raises ValueError with what the parser complains about."""
    parsed: list[argparse.Namespace] = []

    def stopping(method: Any) -> Any:
        def parse(self: argparse.ArgumentParser, *given: Any, **named: Any) -> Any:
            parsed.append(method(self, *given, **named))
            raise _Parsed

        return parse

    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # runpy's, of modules that are imported already
        for name in ("parse_args", "parse_intermixed_args"):
            patch.setattr(argparse.ArgumentParser, name, stopping(getattr(argparse.ArgumentParser, name)))
        patch.setattr(sys, "argv", [module, *argv])
        for name, value in environment.items():
            patch.setenv(name, value)
        try:
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
                runpy.run_module(module, run_name="__main__", alter_sys=True)
        except _Parsed:
            return parsed[0]
        except SystemExit as stop:
            raise ValueError(f"exit code {stop.code}: {said.getvalue()}") from None
        except ImportError as error:
            raise ValueError(f"python -m {module}: {error}") from None
    raise ValueError(f"python -m {module} has no argument parser")
