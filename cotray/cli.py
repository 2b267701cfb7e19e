"""The command line: `cotray VERB -c CONFIG a.b=c`, the same as `python -m jobs.VERB -c CONFIG a.b=c`.

argv -> configuration -> one call -> summary. Exit codes: 0 done, 1 a stage failed, 2 wrong usage,
configuration or data. What a stage needs is imported after the arguments are understood.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from cotray.config import RunConfig, load_config
from cotray.errors import ConfigError, DataError, cotray_error

VERBS = {
    "prepare": "read QA pairs, draw contrast and counterfactual answers, write requests/",
    "generate": "let the teacher write a rationale for every request, into rationales/",
    "assess": "add scores to every rationale, as `assessing.measures` says, into assessments/",
    "train": "fine-tune the student on the rationales, into student/",
    "score": "let the student answer and the simulator predict it: answers/, simulations/ and LAS",
    "serve": "put student and simulator behind an endpoint, with live LAS",
    "report": "write report.json and report.html from what is in the run folder",
    "run": "all of the above for every method in `methods`, and one report that compares them",
    "verify": "read every file of every finished stage, and compare it with what was written",
}


def main(argv: Sequence[str] | None = None) -> int:
    """The console script `cotray`."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and argv[0] in VERBS:
        return job(argv[0], argv[1:], prog=f"cotray {argv[0]}")
    parser = argparse.ArgumentParser(
        prog="cotray",
        description="Distil faithful chain-of-thought students on Ray.",
        epilog="verbs:\n" + "\n".join(f"  {verb:<10}{text}" for verb, text in VERBS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("verb", choices=VERBS, metavar="VERB", help="one of the verbs below")
    parser.parse_args(argv[:1])
    return 2


def job(verb: str, argv: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """One verb from arguments to exit code; `python -m jobs.VERB` calls this."""
    parser = argparse.ArgumentParser(prog=prog or f"python -m jobs.{verb}", description=VERBS[verb])
    parser.add_argument(
        "-c", "--config", required=True, metavar="CONFIG", help="a YAML file; see jobs/configs/"
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="delete and make again what changed, and what follows from it",
    )
    parser.add_argument(
        "--wait", action="store_true", help="until another process has ended that does the same here"
    )
    parser.add_argument(
        "--print-config",
        action="store_true",
        help="print the configuration with the meaning of every key, and do nothing",
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="such as data.limit=48")
    arguments = parser.parse_intermixed_args(argv)
    if arguments.print_config:
        from cotray.config.reference import annotated

        return reported(lambda: annotated(configured(arguments.config, arguments.overrides)))
    return reported(
        lambda: _call(verb)(
            configured(arguments.config, arguments.overrides), arguments.overwrite, arguments.wait
        )
    )


def configured(path: str, overrides: Sequence[str]) -> RunConfig:
    """The configuration, with its storage made known to this process."""
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
            raise
        print(f"cotray: {known}", file=sys.stderr)
        return 2 if isinstance(known, ConfigError | DataError) else 1
    return 0


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
        "serve": run.serve_verb,
        "run": run.run_verb,
    }[verb]


if __name__ == "__main__":
    raise SystemExit(main())
