"""report: what the manifests and records of finished runs say -> report.json and report.html."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from cotray.config import RunConfig
from cotray.errors import DataError
from cotray.records import Rationale, Simulation
from cotray.report.html import render_html
from cotray.report.method_report import Example, MethodExample, MethodReport
from cotray.report.probed_examples import probed_examples
from cotray.report.run_columns import probing_of
from cotray.report.scored_runs import scored_runs
from cotray.report.table import probing_lines, text_table
from cotray.report.trained_alike import trained_otherwise
from cotray.report.verdicts import differences, verdicts
from cotray.seeds import digest
from cotray.storage.manifest import Manifest, fingerprint
from cotray.storage.run_folder import RunFolder

NUM_EXAMPLES = 8


def report(config: RunConfig) -> str:
    """Write report.json and report.html for all finished methods; returns tables and verdicts as text."""
    root = RunFolder(config.run_dir)
    scored = scored_runs(config)
    if not scored:
        raise DataError(f"{root.root}: nothing is scored yet; run `cotray run` or the single verbs first")
    folders = [(_label(method, folder), folder) for method, folder in scored.items()]
    methods = [_method_report(method, folder) for method, folder in folders]
    simulations = [{s.id: s for s in folder.read_records("simulations", Simulation)} for _, folder in folders]
    pairs = differences([m.method for m in methods], simulations, seed=config.seed)
    said = [*trained_otherwise(folders), *verdicts(methods, pairs)]
    summary = {
        "title": f"cotray {root.root.rpartition('/')[2]}",
        **_made_from([folder for _, folder in folders]),
        "verdicts": said,
        "methods": [m.to_json() for m in methods],
        "differences": [asdict(pair) for pair in pairs],
    }
    root.write_bytes("report.json", json.dumps(summary, indent=1).encode())
    examples = _examples(folders, simulations, seed=config.seed)
    criteria = json.loads(root.read_bytes("criteria.json")) if root.exists("criteria.json") else None
    probed = [
        one
        for (method, folder), report in zip(folders, methods, strict=True)
        if report.probing
        for one in probed_examples(method, folder, seed=config.seed)
    ]
    page = render_html(
        summary, methods, examples, pairs=pairs, verdicts=said, criteria=criteria, probed=probed
    )
    root.write_bytes("report.html", page.encode())
    tables = [text_table(methods, pairs)]
    tables += [f"{m.method}:\n{probing_lines(m.probing)}" for m in methods if m.probing]
    return "\n".join(["\n\n".join(tables), "", f"report: {root.uri('report.html')}", "", *said])


def _label(method: str, folder: RunFolder) -> str:
    """The method's name; where a model behind an API wrote the rationales, with that model."""
    teacher = folder.require("rationales", "generate").settings.get("teacher", {})
    return f"{method} ({teacher['model']} over an API)" if teacher.get("engine") == "openai" else method


def _made_from(folders: Sequence[RunFolder]) -> dict[str, str]:
    """Data, models and seed as the manifests have them: the configuration at hand may be another by now.

    Where methods differ in one, all of its values are there.
    """
    found: dict[str, list[Any]] = {name: [] for name in ("seed", "teacher", "student", "simulator", "data")}
    for folder in folders:
        requests, rationales = folder.require("requests", "prepare"), folder.require("rationales", "generate")
        student, simulator = folder.require("student", "train"), folder.require("simulator", "score")
        teacher = rationales.settings.get("teacher", {}).get("model", rationales.settings["method"])
        found["seed"].append(requests.settings["seed"])
        found["teacher"].append(teacher)
        found["student"].append(student.settings["model"])
        found["simulator"].append(f"{simulator.settings['model']} ({simulator.settings['mode']})")
        found["data"].append(requests.metrics.get("path", "of an unknown path"))
    return {name: ", ".join(dict.fromkeys(map(str, values))) for name, values in found.items()}


def _check_links(folder: RunFolder) -> None:
    """Raises DataError where a stage was made from something else than what is there now."""
    requests, rationales = folder.require("requests", "prepare"), folder.require("rationales", "generate")
    student, answers = folder.require("student", "train"), folder.require("answers", "score")
    simulator, simulations = folder.require("simulator", "score"), folder.require("simulations", "score")
    links = (
        (rationales, "generate", requests.fingerprint),
        (answers, "score", fingerprint(student.fingerprint, rationales.fingerprint)),
        (simulator, "score", answers.fingerprint),
        (simulations, "score", fingerprint(answers.fingerprint, simulator.fingerprint)),
    )
    for stage, verb, source in links:
        if stage.input != source:
            raise DataError(
                f"{folder.uri(stage.stage)}: was made from what is no longer there; run "
                f"`cotray {verb}` with the same configuration and what follows it, then report"
            )


def _method_report(method: str, folder: RunFolder) -> MethodReport:
    _check_links(folder)

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
            "training steps": student.metrics.get("num_steps", "-"),
            "factual examples": student.metrics["factual"],
            "counterfactual examples": student.metrics["counterfactual"],
            "too long examples": student.num_dead,
        },
        quality=assessments.metrics if assessments is not None and is_current else None,
        selection=student.metrics.get("selection"),
        conseq=student.metrics.get("conseq"),
        ground_truth=manifest("answers", "score").metrics.get("ground_truth") or None,
        writing=manifest("answers", "score").metrics.get("writing"),
        commonest_answers=figures.get("commonest_answers"),
        probing=probing_of(folder),
    )


def _examples(
    folders: Sequence[tuple[str, RunFolder]], simulations: Sequence[Mapping[str, Simulation]], *, seed: int
) -> list[Example]:
    """The same test questions for every method, drawn by id."""
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
