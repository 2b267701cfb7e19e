"""report.html from records made by hand: escaped, self-contained, and true to the figures."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from reports import EVIL, SUMMARY, example, method_report, page_with

from cotray.config import parse_config
from cotray.errors import DataError
from cotray.records import Rationale, Simulation
from cotray.report.html import model_name, render_html, token_views
from cotray.report.report import report
from cotray.report.table import text_table
from cotray.scoring.las import las
from cotray.storage.manifest import Manifest, fingerprint
from cotray.storage.run_folder import RunFolder


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


def test_below_thirty_questions_no_figure_is_shown_but_the_number_of_questions() -> None:
    few = method_report("greedy", times=3)
    table = text_table([few])
    assert "not measured (n = 24)" in table and "0." not in table and "[" not in table
    html = render_html(SUMMARY, [few], [])
    figures = html[html.index("<h2>Methods") : html.index('<dl class="soft">')]
    assert "not measured (n = 24)" in figures and "0." not in figures and "under 30" not in figures
    assert few.to_json()["las"]["las"] == pytest.approx(0.467, abs=1e-3) and few.to_json()["n"] == 24


def test_a_figure_of_fewer_questions_than_its_method_has_is_not_shown_alone() -> None:
    part = {"value": 0.123, "ci95": (0.1, 0.2), "n": 29}
    one = replace(method_report("greedy"), oracle_accuracy=part)
    shown = text_table([one])
    assert "not measured (n = 29)" in shown and "0.123" not in shown and "0.467" in shown
    html = render_html(SUMMARY, [one], [])
    assert "not measured (n = 29)" in html and "0.123" not in html and "0.467" in html
    part["n"] = 30
    assert "0.123" in text_table([one]) and "0.123" in render_html(SUMMARY, [one], [])


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


def test_human_criteria_are_there_for_people_judge_and_both_and_only_where_rated() -> None:
    people = PEOPLE | {"agreement": agreements(0.4375)}
    judge = JUDGE | {"num_unparsable": 3, "cost": 0.1234567}
    html = page_with({"people": people, "judge": judge, "agreement": agreements(None)})
    assert "<script" not in html and "Rated by people" in html and "2 annotators, 16 rationales" in html
    assert "15 of 16 rationales judged; 3 answers could not be" in html and "Cost 0.1235." in html
    assert html.index("teacher, &lt;script&gt;") < html.index("student, &lt;script&gt;")
    assert "0.438" in html and "between judge and people: alpha</td><td>-</td>" in html
    assert '<td>0.800<span class="ci">[0.125, 0.875]</span></td>' in html
    assert ": alpha<" not in page_with({"judge": judge | {"cost": None}})
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


def scored_run(root: Path) -> RunFolder:
    """A run folder with the manifests of all stages and one test question, by hand."""
    folder = RunFolder(str(root))
    requests = Manifest("requests", {"seed": 7}, "-", 1, 1, 0, {"path": "questions.csv"})
    settings = {"method": "greedy", "kinds": ["factual"], "teacher": {"model": "big-teacher"}}
    rationales = Manifest("rationales", settings, requests.fingerprint, 1, 1, 0, {"tokens": 3})
    counts = {"factual": 1, "counterfactual": 0, "history": []}
    student = Manifest("student", {"model": "small-student"}, rationales.fingerprint, 1, 1, 0, counts)
    answers = Manifest("answers", {}, fingerprint(student.fingerprint, rationales.fingerprint), 1, 1, 0)
    settings = {"model": "observer", "mode": "prompted"}
    simulator = Manifest("simulator", settings, answers.fingerprint, 1, 1, 0)
    part = {"value": 0.5, "ci95": (0.25, 0.75), "n": 8}
    figures = dict.fromkeys(("accuracy", "oracle_accuracy", "perturbed_accuracy", "wrote_answer"), part)
    source = fingerprint(answers.fingerprint, simulator.fingerprint)
    las_part = {"las": asdict(las("AB", "AB", "AA", "AB"))}
    simulations = Manifest("simulations", {}, source, 1, 1, 0, figures | las_part)
    made = example().methods[0]
    rows = {"rationales": (made.rationale, Rationale), "simulations": (made.simulation, Simulation)}
    for manifest in (requests, rationales, student, answers, simulator, simulations):
        folder.begin(manifest.stage, settings=manifest.settings, input=manifest.input, overwrite=False)
        if manifest.stage in rows:
            row, kind = rows[manifest.stage]
            name = f"{manifest.stage}/part-00000.parquet"
            folder.write_records(name, [row], kind, version=manifest.fingerprint)
        folder.finish(manifest)
    return folder


def test_a_report_names_what_the_figures_were_made_from_and_not_the_configuration_at_hand(tmp_path) -> None:
    folder = scored_run(tmp_path)
    at_hand = {"teacher": {"model": "random:llama"}, "seed": 1, "data": {"path": "sample"}}
    said = report(parse_config({"run_dir": str(tmp_path), **at_hand}))
    assert said.splitlines()[-1] == (
        "contrast-wrong+counterfactual: nothing can be said: 8 test questions, and below 30 a figure is not "
        "measured."
    )
    summary = json.loads(folder.read_bytes("report.json"))
    assert summary["verdicts"] == said.splitlines()[-1:]
    (method,) = summary["methods"]
    assert (method["n"], method["accuracy"]["value"], method["ci95"]) == (8, 0.5, method["las"]["ci95"])
    assert method["ground_truth_faithfulness"] is None and method["ground_truth"] is None
    named = {name: summary[name] for name in ("teacher", "student", "simulator", "data", "seed")}
    assert named == {
        "teacher": "big-teacher",
        "student": "small-student",
        "simulator": "observer (prompted)",
        "data": "questions.csv",
        "seed": "7",
    }


def test_no_report_is_made_of_answers_to_rationales_that_are_no_longer_there(tmp_path) -> None:
    folder = scored_run(tmp_path)
    again = {"method": "greedy", "kinds": ["factual"], "teacher": {"model": "another-teacher"}}
    source = folder.require("requests", "prepare").fingerprint
    folder.begin("rationales", settings=again, input=source, overwrite=True)
    folder.finish(Manifest("rationales", again, source, 1, 1, 0, {"tokens": 3}))
    with pytest.raises(DataError, match=r"answers: was made from .*; run `cotray score`"):
        report(parse_config({"run_dir": str(tmp_path)}))


def test_a_model_of_the_world_is_named_without_its_dials() -> None:
    assert model_name("world:simulator?seed=0&tasks=yes_no,open (trained)") == "world:simulator (trained)"
    assert model_name("embedded:smollm2-135m-instruct") == "embedded:smollm2-135m-instruct"
