"""The verbs of `cotray VERB` and `python -m jobs.VERB`: what each does, and the module that has its parser.

Every such module has `parser(prog)`, which the completion of shells reads, and `main(argv, prog=...)`, from
arguments to exit code: 0 done, 1 a stage failed, 2 wrong usage, configuration or data.
"""

from __future__ import annotations

import importlib
from argparse import ArgumentParser
from collections.abc import Callable
from functools import partial

STAGES = {
    "prepare": "read QA pairs, draw contrast and counterfactual answers, write requests/",
    "generate": "let the teacher write a rationale for every request, into rationales/",
    "assess": "add scores to every rationale, as `assessing.measures` says, into assessments/",
    "train": "fine-tune the student on the rationales, into student/",
    "score": "let the student answer and the simulator predict it: answers/, simulations/ and LAS",
    "probe": "change the student's rationales and questions, and see what its answers do: probes/",
    "serve": "put student and simulator behind an endpoint, with live LAS",
    "report": "write report.json and report.html from what is in the run folder",
    "run": "prepare, generate, train, score and report for every method in `methods`",
    "verify": "read every file of every finished stage, and compare it with what was written",
}
"""Verbs that take a configuration and nothing else; one module has them all."""
VERBS = {
    "init": "write a configuration for data of your own, after a look at their first rows",
    **STAGES,
    "sweep": "runs that differ in one key each, over several seeds, and verdicts on claims",
    "gate": "exit code 1 where a student's figures are below their floors, or below another run's",
    "train_pairs": "train a model that writes question-answer pairs, for `assess`",
    "export": "write a finished run's results for other programs",
    "annotate": "let people rate rationales: export forms, import the filled ones",
    "judge": "let a language model rate rationales as people do",
    "plan": "GPUs, hours and money for a number of rows, by simulation",
    "bench": "measure cotray on this machine",
}


def main_of(verb: str) -> Callable[..., int]:
    """`main(argv, prog=...)` of one of VERBS; what it needs is imported only now."""
    if verb in STAGES:
        return partial(importlib.import_module("cotray.commands.stage").main, verb)
    return importlib.import_module(f"cotray.commands.{verb}").main


def parser_of(verb: str, prog: str) -> ArgumentParser:
    if verb in STAGES:
        return importlib.import_module("cotray.commands.stage").parser(verb, prog)
    return importlib.import_module(f"cotray.commands.{verb}").parser(prog)
