"""cotray VERB -c CONFIG [--overwrite] [--wait] [--dry-run] [--print-config] [KEY=VALUE ...]

The stages of a run. What a stage needs is imported after the arguments are understood.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cotray.commands.command import add_config, add_overrides, add_overwrite_and_wait, configured, reported
from cotray.commands.verbs import STAGES
from cotray.errors import ConfigError

if TYPE_CHECKING:
    from cotray.config import RunConfig


def main(verb: str, argv: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    arguments = parser(verb, prog or f"cotray {verb}").parse_intermixed_args(argv)
    return reported(lambda: _work(verb, arguments))


def parser(verb: str, prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description=STAGES[verb])
    add_config(parser)
    add_overwrite_and_wait(parser, "delete and make again what changed, and what follows from it")
    parser.add_argument(
        "--print-config",
        action="store_true",
        help="print the configuration with the meaning of every key, and do nothing",
    )
    if verb not in ("report", "verify"):
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="print the stages with what is done, their rows and what they ask of the cluster, and what "
            "would stop them; start nothing",
        )
    if verb == "prepare":
        parser.add_argument(
            "--show",
            type=int,
            metavar="N",
            help="print the first N rows as they came and as they are understood, and do nothing",
        )
        parser.add_argument(
            "--show-prompts",
            type=int,
            metavar="N",
            help="print what each model will read of the first N questions, and do nothing",
        )
    add_overrides(parser, "such as data.limit=48")
    return parser


def _work(verb: str, arguments: argparse.Namespace) -> str:
    config = configured(arguments.config, arguments.overrides)
    if arguments.print_config:
        from cotray.config.reference import annotated

        return annotated(config)
    if getattr(arguments, "dry_run", False):
        from cotray.stages.dry_run import dry_run

        configs = [config.for_method(one) for one in config.methods] if verb == "run" else [config]
        plan, is_well = dry_run(configs, verb, overwrite=arguments.overwrite)
        if not is_well:
            print(plan)
            raise ConfigError("nothing was started, and the command would end here; mend what is listed")
        return plan
    if getattr(arguments, "show", None):
        from cotray.data.preview import preview

        return preview(config, arguments.show)
    if getattr(arguments, "show_prompts", None):
        from cotray.stages.show_prompts import show_prompts

        return show_prompts(config, arguments.show_prompts)
    return _call(verb)(config, arguments.overwrite, arguments.wait)


def _call(verb: str) -> Callable[[RunConfig, bool, bool], str]:
    if verb == "report":
        from cotray.report.report import report

        return lambda config, *_: report(config)
    if verb == "verify":
        from cotray.storage.verify import verify

        return lambda config, *_: verify(config)
    from cotray.stages import run

    return {
        "prepare": run.prepare_verb,
        "generate": run.generate_verb,
        "assess": run.assess_verb,
        "train": run.train_verb,
        "score": run.score_verb,
        "probe": run.probe_verb,
        "serve": run.serve_verb,
        "run": run.run_verb,
    }[verb]
