"""Records of a report, made by hand."""

from __future__ import annotations

from dataclasses import asdict

from cotray.records import Rationale, Simulation
from cotray.report.html import render_html
from cotray.report.method_report import Example, MethodExample, MethodReport
from cotray.scoring.las import las

EVIL = "<script>alert('x')</script>"
SUMMARY = {"title": EVIL, "seed": 1, "teacher": EVIL, "student": "s", "simulator": "m", "data": EVIL}


def method_report(name: str, *, leaks: bool = False, times: int = 4) -> MethodReport:
    """Of `times` times eight test questions."""
    part = {"value": 0.5, "ci95": (0.25, 0.75), "n": 8 * times}
    student, from_x, from_e, from_xe = (
        said * times for said in ("ABACBACB", "ACBCCAAC", "ABACBACB" if leaks else "ABACBBAC", "ABACBACC")
    )
    report = las(student, from_x, from_e, from_xe)
    history = [
        {"epoch": 1, "loss_factual": 2.0, "dev_loss": 2.5},
        {"epoch": 2, "loss_factual": 1.0, "dev_loss": 2.4},
    ]
    return MethodReport(name, "runs/x", part, part, part, part, asdict(report), history, [], {"questions": 8})


def example() -> Example:
    rationale = Rationale(
        id="1",
        task="yes_no",
        question=EVIL,
        choices=("yes", "no"),
        answer="yes",
        rationale=f"Because {EVIL}",
        method="contrast-wrong",
        tokens=("Because", f" {EVIL}"),
        greedy_tokens=("Because", " it"),
        grounded_logprobs=(-0.1, -2.0),
        contrast_logprobs=(-0.2, -7.5),
        greedy_grounded_logprobs=(-0.1, -0.9),
        greedy_contrast_logprobs=(-0.2, -0.3),
    )
    simulation = Simulation.from_row(rationale.to_row() | {"student_answer": EVIL, "sim_e": EVIL})
    return Example(EVIL, ["yes", "no"], "yes", EVIL, [MethodExample("contrast-wrong", rationale, simulation)])


def page_with(criteria: dict) -> str:
    summary = {"title": "t", "seed": 1, "teacher": "t", "student": "s", "simulator": "m", "data": "d"}
    return render_html(summary, [method_report("greedy")], [example()], criteria=criteria)
