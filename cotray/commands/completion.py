"""What a shell offers at the tab key: verbs, options, configuration files, and the keys of a configuration.

argcomplete speaks with the shells: their script starts `cotray` with the line that is typed so far, and shows
what it prints. Only the verb that is typed is imported, and neither torch nor Ray.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from functools import partial
from typing import Any

from pydantic import BaseModel

from cotray.commands.annotate import PARSERS as ANNOTATE
from cotray.commands.verbs import VERBS, parser_of
from cotray.config import RunConfig
from cotray.config.pairs import PairsConfig
from cotray.config.reference import keys

NUM_WORDS = "_ARGCOMPLETE"
"""How many words of the line come before the arguments, as the shell's script says."""


def complete(top: argparse.ArgumentParser) -> None:
    """Answer the shell and end the process; `top` is the parser of what stands before the verb."""
    try:
        import argcomplete
        from argcomplete.completers import FilesCompleter
        from argcomplete.lexers import split_line
    except ImportError:
        raise SystemExit(1) from None
    *_, words, _ = split_line(os.environ["COMP_LINE"], int(os.environ["COMP_POINT"]))
    num_before = int(os.environ[NUM_WORDS])
    parser, named = _parser_of(words[num_before:], top)
    # The words that name the verb are, to its parser, what the program's name is to `top`.
    os.environ[NUM_WORDS] = str(num_before + len(named))
    model = PairsConfig if named == ["train_pairs"] else RunConfig
    completers: dict[str, Any] = {
        "config": FilesCompleter(("yaml", "yml")),
        "overrides": partial(offered_keys, model),
    }
    for action in parser._actions:
        if action.dest in completers:
            action.completer = completers[action.dest]  # type: ignore[attr-defined]
    argcomplete.autocomplete(parser, always_complete_options="long")


def _parser_of(
    words: Sequence[str], top: argparse.ArgumentParser
) -> tuple[argparse.ArgumentParser, list[str]]:
    """The parser of what is typed, and the words that name it."""
    match list(words):
        case ["annotate" as verb, command, *_] if command in ANNOTATE:
            return ANNOTATE[command](f"cotray {verb} {command}"), [verb, command]
        case [verb, *_] if verb in VERBS:
            return parser_of(verb, f"cotray {verb}"), [verb]
    return top, []


def offered_keys(model: type[BaseModel], prefix: str, **_: Any) -> dict[str, str]:
    """The keys that begin so, with their meanings, one level at a time: `student.training.` of `student.t`.

    A section ends with a dot, a key with the = that its value stands behind.
    """
    depth = prefix.count(".")
    found = {
        f"{key.path}{'.' if key.is_section else '='}": key.text
        for key in keys(model)
        if key.path.startswith(prefix) and key.path.count(".") == depth and "[]" not in key.path
    }
    # A shell puts a space behind what can only be one thing, but a section alone is nothing to be given.
    only = next(iter(found)) if len(found) == 1 else ""
    return offered_keys(model, only) if only.endswith(".") else found
