"""report.html from records made by hand: escaped, self-contained, and true to the figures."""

from __future__ import annotations

from dataclasses import asdict, replace

from cotray.records import Rationale, Simulation
from cotray.report.html import render_html, token_views
from cotray.report.report import Example, MethodExample, MethodReport
from cotray.report.table import text_table
from cotray.scoring.las import las

EVIL = "<script>alert('x')</script>"
SUMMARY = {"title": EVIL, "seed": 1, "teacher": EVIL, "student": "s", "simulator": "m", "data": EVIL}


def method_report(name: str, *, leaks: bool = False) -> MethodReport:
    part = {"value": 0.5, "ci95": (0.25, 0.75), "n": 8}
    report = las("ABACBACB", "ACBCCAAC", "ABACBACB" if leaks else "ABACBBAC", "ABACBACC")
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


def page() -> str:
    methods = [method_report("greedy"), method_report("contrast-wrong", leaks=True)]
    return render_html(SUMMARY, methods, [example()])


def test_all_text_from_data_is_escaped() -> None:
    html = page()
    assert "<script" not in html
    assert html.count("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;") >= 6


def test_page_needs_nothing_from_outside() -> None:
    html = page()
    assert "http://" not in html.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    assert "<link" not in html and " src=" not in html and "@import" not in html


def test_undefined_las_is_a_dash_with_its_reason() -> None:
    html = page()
    assert "every rationale leaks the answer" in html
    table = text_table([method_report("contrast-wrong", leaks=True)])
    assert "contrast-wrong  -    -" in table and "every rationale leaks" in table


def test_table_shows_las_and_interval() -> None:
    assert "0.467" in text_table([method_report("greedy")])
    assert "[0.250, 0.750]" in page()


def test_tokens_that_contrast_changed_are_marked_with_both_log_probabilities() -> None:
    first, second = token_views(example().methods[0].rationale)
    assert (first.is_changed, second.is_changed) == (False, True)
    assert second.hint == "log p grounded -2.00, contrast -7.50; greedy: ' it' -0.90, -0.30"
    assert 'class="token changed"' in page()


def rates(*values: float | None) -> list[dict]:
    measures = ("grammaticality", "new_info", "supports_answer", "supports_given_new")
    return [
        {"writer": writer, "method": EVIL, "measure": measure, "num_items": 8, "num_verdicts": 16}
        | {"rate": value, "ci95": None if value is None else (0.125, 0.875)}
        for writer in ("student", "teacher")
        for measure, value in zip(measures, values, strict=True)
    ]


def agreements(alpha: float | None) -> dict:
    return {m: {"alpha": alpha, "raw": 0.625, "num_pairs": 8} for m in ("a", "b", "c", "d")}


PEOPLE = {"rates": rates(0.9, 0.8, 0.7, 0.6), "ratings": {"p": {}, "q": {}}, "num_items": 16}
JUDGE = {"rates": rates(0.5, 0.0, 0.0, None), "model": EVIL, "num_items": 16, "num_judged": 15}


def page_with(criteria: dict) -> str:
    summary = {"title": "t", "seed": 1, "teacher": "t", "student": "s", "simulator": "m", "data": "d"}
    return render_html(summary, [method_report("greedy")], [example()], criteria=criteria)


def test_human_criteria_are_there_for_people_judge_and_both_and_only_where_rated() -> None:
    people = PEOPLE | {"agreement": agreements(0.4375)}
    judge = JUDGE | {"num_unparsable": 3, "cost": 0.1234567}
    html = page_with({"people": people, "judge": judge, "agreement": agreements(None)})
    assert "<script" not in html and "Rated by people" in html and "2 annotators, 16 rationales" in html
    assert "15 of 16 rationales judged; 3 answers could not be" in html and "Cost 0.1235." in html
    assert html.index("teacher, &lt;script&gt;") < html.index("student, &lt;script&gt;")
    assert "0.438" in html and "between judge and people: alpha</td><td>-</td>" in html
    assert '<td>0.800<span class="ci">[0.125, 0.875]</span></td>' in html
    assert "between" not in page_with({"judge": judge | {"cost": None}})
    assert "judge and people" not in page_with({"people": people})
    assert "Human criteria" not in page()


def test_what_conseq_learned_and_unlearned_is_there_only_where_it_ran() -> None:
    sides = {"chosen": {"before": -1.5, "after": -1.25}, "rejected": {"before": -2.0, "after": -4.125}}
    figures = {"questions": 40, "scored": 30, "selected": 5, "logprob": sides}
    learned = replace(method_report("greedy"), conseq=figures)
    html = render_html(SUMMARY, [learned, method_report("contrast-wrong")], [example()])
    assert html.count("Learned and unlearned by ConSeq") == 1
    assert "5 of 40 training questions" in html and "-1.500 &rarr; -1.250" in html and "-4.125" in html


def test_scores_of_rationales_stand_side_by_side_by_method_those_that_were_measured() -> None:
    words = {"mean": 16.0, "ci95": (15.0, 17.0), "n": 24, "quantiles": [9, 12, 16, 20, 25]}
    grounded = {"mean": -0.75, "ci95": (-1.0, -0.5), "n": 20, "quantiles": [-1.5, -1, -0.75, -0.5, -0.25]}
    auc = {"value": 0.875, "ci95": (0.75, 1.0), "n": 20}
    judged = [
        replace(method_report("greedy"), quality={"num_words": words, "grounded": grounded, "fact_auc": auc}),
        replace(method_report("human"), quality={"num_words": words}),
        method_report("few-shot"),
    ]
    html = render_html(SUMMARY, judged, [example()])
    table = html[html.index("The teacher's rationales") :]
    table = " ".join(table[: table.index("</table>")].split())
    assert "<th></th><th>greedy</th><th>human</th></tr>" in table
    cell = '-0.750<span class="ci">[-1.000, -0.500]; n = 20</span>'
    assert f"<tr><td>grounded</td> <td>{cell}</td> <td>-</td> </tr>" in table
    assert "[0.750, 1.000]; n = 20" in table
    assert not any(name in table for name in ("qags", "delta", "simulation gain", "LAS"))
