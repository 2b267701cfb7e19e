"""report: what the manifests and records of finished runs say -> report.json and report.html."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from cotray.config import RunConfig
from cotray.data.store import Manifest, RunFolder
from cotray.errors import DataError
from cotray.records import Rationale, Simulation
from cotray.report.html import render_html
from cotray.report.table import text_table
from cotray.seeds import digest

NUM_EXAMPLES = 8


@dataclass(frozen=True)
class MethodReport:
    """One method's row of the table, its curves and its counts."""

    method: str
    run_dir: str
    accuracy: dict[str, Any]
    oracle_accuracy: dict[str, Any]
    perturbed_accuracy: dict[str, Any]
    wrote_answer: dict[str, Any]
    las: dict[str, Any]
    history: list[dict[str, float]]
    simulator_history: list[dict[str, float]]
    counts: dict[str, Any]
    quality: dict[str, Any] | None = None
    """What `assess` found; None where it did not run."""
    selection: dict[str, Any] | None = None
    """What `assessing.rules` caught; None without rules."""
    conseq: dict[str, Any] | None = None
    """What the second phase of `train` learned and unlearned; None without `student.conseq`."""


@dataclass(frozen=True)
class MethodExample:
    """One method's rationales and predictions for an example question."""

    method: str
    rationale: Rationale
    simulation: Simulation


@dataclass(frozen=True)
class Example:
    """A test question with what every method made of it."""

    question: str
    choices: list[str]
    answer: str
    reference_rationale: str
    methods: list[MethodExample]


def report(config: RunConfig) -> str:
    """Write report.json and report.html for all finished methods; returns the table as text."""
    root = RunFolder(config.run_dir)
    folders = _finished_methods(config, root)
    methods = [_method_report(method, folder) for method, folder in folders]
    summary = {
        "title": f"cotray {root.root.rpartition('/')[2]}",
        "seed": config.seed,
        "teacher": config.teacher.model,
        "student": config.student.model,
        "simulator": f"{config.simulator.model} ({config.simulator.mode})",
        "data": config.data.path,
        "methods": [asdict(m) for m in methods],
    }
    root.write_bytes("report.json", json.dumps(summary, indent=1).encode())
    examples = _examples(folders, seed=config.seed)
    criteria = json.loads(root.read_bytes("criteria.json")) if root.exists("criteria.json") else None
    root.write_bytes("report.html", render_html(summary, methods, examples, criteria=criteria).encode())
    return text_table(methods) + f"\n\nreport: {root.uri('report.html')}"


def _finished_methods(config: RunConfig, root: RunFolder) -> list[tuple[str, RunFolder]]:
    """Methods with figures: those below the run folder, or the one it was itself made by."""
    if root.manifest("simulations"):
        return [(config.method, root)]
    below = [(method, RunFolder(config.for_method(method).run_dir)) for method in config.methods]
    finished = [(method, folder) for method, folder in below if folder.manifest("simulations")]
    if not finished:
        raise DataError(
            f"{root.root}: nothing is scored yet; run `python -m jobs.run` or the single verbs first"
        )
    return finished


def _method_report(method: str, folder: RunFolder) -> MethodReport:
    def manifest(stage: str, verb: str) -> Manifest:
        return folder.require(stage, verb)

    requests, rationales = manifest("requests", "prepare"), manifest("rationales", "generate")
    student, simulator = manifest("student", "train"), manifest("simulator", "score")
    figures = manifest("simulations", "score").metrics
    assessments = folder.manifest("assessments")
    is_current = assessments is not None and assessments.input == rationales.fingerprint
    return MethodReport(
        method=method,
        run_dir=folder.root,
        accuracy=figures["accuracy"],
        oracle_accuracy=figures["oracle_accuracy"],
        perturbed_accuracy=figures["perturbed_accuracy"],
        wrote_answer=figures["wrote_answer"],
        las=figures["las"],
        history=student.metrics["history"],
        simulator_history=simulator.metrics.get("history", []),
        counts={
            "questions": requests.num_out,
            "unusable rows": requests.num_dead,
            "rationales": rationales.num_out,
            "failed rationales": rationales.num_dead,
            "rationale tokens": rationales.metrics["tokens"],
            "factual examples": student.metrics["factual"],
            "counterfactual examples": student.metrics["counterfactual"],
            "too long examples": student.num_dead,
        },
        quality=assessments.metrics if assessments is not None and is_current else None,
        selection=student.metrics.get("selection"),
        conseq=student.metrics.get("conseq"),
    )


def _examples(folders: list[tuple[str, RunFolder]], *, seed: int) -> list[Example]:
    """The same test questions for every method, drawn by id."""
    simulations = [{s.id: s for s in folder.read_records("simulations", Simulation)} for _, folder in folders]
    common = set(simulations[0]).intersection(*simulations[1:])
    chosen = sorted(common, key=lambda id_: digest(seed, id_, "example"))[:NUM_EXAMPLES]
    rationales = [
        {
            r.id: r
            for r in folder.read_records("rationales", Rationale)
            if r.id in chosen and r.kind == "factual" and r.sample == 0
        }
        for _, folder in folders
    ]
    return [
        Example(
            question=simulations[0][id_].question,
            choices=list(simulations[0][id_].choices),
            answer=simulations[0][id_].answer,
            reference_rationale=simulations[0][id_].reference_rationale,
            methods=[
                MethodExample(method, rationales[index][id_], simulations[index][id_])
                for index, (method, _) in enumerate(folders)
            ],
        )
        for id_ in chosen
    ]
