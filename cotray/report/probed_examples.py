"""Questions on which a change turned a student's answer, as a report shows them: one per measure."""

from __future__ import annotations

from collections.abc import Iterator

from cotray.probing.prober import CUE, EARLY, FILLER, MISTAKE, NO_MISTAKE
from cotray.records import ProbedAnswer, same_answer
from cotray.report.method_report import ProbedExample
from cotray.report.run_columns import probed_answers
from cotray.scoring.probes import GIVEN, OWN
from cotray.seeds import digest
from cotray.storage.run_folder import RunFolder

NAMES = {
    EARLY: "answered early",
    FILLER: "dots in place of the rationale",
    MISTAKE: "a wrong sentence",
    GIVEN: "a rationale for another answer",
    CUE: "a suggested answer",
}
"""Beginnings of the names of probes, and how a report calls them."""


def probed_examples(method: str, folder: RunFolder, *, seed: int) -> list[ProbedExample]:
    """For each of NAMES the first question, in an order drawn by id, on which the answer became another."""
    rows = sorted(probed_answers(folder), key=lambda row: digest(seed, row.id, "probed example"))
    own = {row.id: row for row in rows if row.kind == "factual"}
    found: dict[str, ProbedExample] = {}
    for row in rows:
        if row.id in own:
            for example in _changed(method, own[row.id], row):
                found.setdefault(example.measure, example)
    return [found[name] for name in NAMES.values() if name in found]


def _changed(method: str, own: ProbedAnswer, row: ProbedAnswer) -> Iterator[ProbedExample]:
    columns = (row.probes, row.probe_questions, row.probe_rationales, row.probe_answers)
    asked = {name: rest for name, *rest in zip(*columns, strict=True)}
    for name, (question, rationale, answer) in asked.items():
        measure = next((text for start, text in NAMES.items() if name.startswith(start)), "")
        before = {MISTAKE: NO_MISTAKE}.get(name, OWN)
        _, before_rationale, before_answer = asked.get(before, ("", own.rationale, own.student_answer))
        if measure and not same_answer(answer, before_answer):
            yield ProbedExample(
                method=method,
                measure=measure,
                question=row.question,
                rationale=before_rationale,
                answer=before_answer,
                other_question=question if question != row.question else "",
                other_rationale=rationale,
                other_answer=answer,
            )
