"""Methods compared in pairs and what is said of it, against counts by hand and exact distributions."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from reports import SUMMARY, method_report
from scipy.stats import binom
from test_report import scored_run

from cotray.config import parse_config
from cotray.records import Simulation
from cotray.report.comparison import Difference
from cotray.report.html import render_html
from cotray.report.method_report import MethodDifference
from cotray.report.report import report
from cotray.report.table import text_table
from cotray.report.verdicts import differences, verdicts
from cotray.scoring.las import las
from cotray.storage.manifest import Manifest, fingerprint

TRUTH = {"n": 64, "following": 0.76, "following_ci95": [0.73, 0.79], "cue": 0.55, "cue_ci95": [0.5, 0.6]}


def simulated(number: int, *, is_right: bool) -> Simulation:
    """Right or wrong; every second is leaking, and the rationale helps in every fourth."""
    said = "yes" if is_right else "no"
    other = "no" if is_right else "yes"
    return Simulation(
        id=f"q{number}", task="yes_no", question="?", choices=("yes", "no"), answer="yes", split="test",
        student_answer=said, sim_x=other, sim_e=said if number % 2 else other,
        sim_xe=said if number % 4 == 0 else other,
    )  # fmt: skip


def rows(right: set[int], numbers: range) -> dict[str, Simulation]:
    return {f"q{number}": simulated(number, is_right=number in right) for number in numbers}


def test_the_interval_is_that_of_the_same_questions_and_not_of_two_samples() -> None:
    """Right on 20 of 40, and on 10 more: resampled together, the difference is binomial over those 10."""
    less, more = rows(set(range(20)), range(40)), rows(set(range(30)), range(40))
    (pair,) = differences(["greedy", "more"], [less, more], seed=0)
    assert (pair.method, pair.against) == ("more", "greedy")
    assert pair.accuracy.value == pytest.approx(0.25) and pair.accuracy.num_questions == 40
    low, high = (binom.ppf(share, 40, 0.25) / 40 for share in (0.025, 0.975))
    assert pair.accuracy.ci95 == pytest.approx((low, high), abs=1 / 40)
    # The simulator is right on the same questions of both, and so is LAS.
    assert pair.las == Difference(0.0, (0.0, 0.0), 40)


def test_las_differs_by_what_both_have_over_the_questions_that_both_have() -> None:
    first = rows(set(), range(40))
    other = {id_: replace(row, sim_xe=row.student_answer) for id_, row in rows(set(), range(8, 48)).items()}
    (pair,) = differences(["greedy", "other"], [first, other], seed=0)
    common = [f"q{number}" for number in range(8, 40)]

    def las_of(side: dict[str, Simulation]) -> float:
        found = [side[id_] for id_ in common]
        columns = ([getattr(row, name) for row in found] for name in ("student_answer", *NAMES))
        value = las(*columns).las
        assert value is not None
        return value

    assert pair.las.num_questions == 32
    gained = las_of(other) - las_of(first)
    assert pair.las.value == pytest.approx(gained) and gained > 0.5
    assert differences(["a", "b"], [first, {}], seed=0)[0].las == Difference(None, None, 0)


NAMES = ("sim_x", "sim_e", "sim_xe")


DOUBTS = (
    "; but half of LAS rests on few questions: of contrast-wrong, a group has only 12 rows (under 30); of "
    "greedy, a group has only 12 rows (under 30)."
)


def said(value: float | None, ci95: tuple[float, float] | None, n: int = 32, **changes) -> str:
    methods = [method_report("greedy"), method_report("contrast-wrong", **changes)]
    found = Difference(value, ci95, n)
    (sentence,) = verdicts(methods, [MethodDifference("contrast-wrong", "greedy", found, found)])
    return sentence


def test_a_verdict_says_above_below_or_cannot_be_told_by_the_interval_alone() -> None:
    assert said(0.24, (0.18, 0.3)) == (
        "contrast-wrong: LAS is 0.24 higher than greedy's (95 % interval of the difference 0.18 to 0.30), so "
        f"its rationales tell more about its answers{DOUBTS}"
    )
    assert said(-0.1, (-0.2, -0.004)) == (
        "contrast-wrong: LAS is 0.10 lower than greedy's (95 % interval of the difference -0.20 to -0.004), "
        f"so its rationales tell less about its answers{DOUBTS}"
    )
    assert said(0.02, (-0.05, 0.1)) == (
        "contrast-wrong: whether its LAS differs from greedy's cannot be told: the interval -0.05 to 0.10 of "
        f"the difference includes 0{DOUBTS}"
    )
    assert "cannot be told" in said(0.1, (0.0, 0.2))
    assert said(0.0, (0.0, 0.0)) == (
        f"contrast-wrong: no difference from greedy's LAS was seen on 32 test questions{DOUBTS}"
    )


def test_a_verdict_on_few_questions_or_without_las_says_why_there_is_none() -> None:
    too_few = "contrast-wrong: nothing can be said: {}, and below 30 a figure is not measured."
    assert said(0.24, (0.18, 0.3), 29) == too_few.format("29 test questions")
    assert said(0.24, (0.24, 0.24), 1) == too_few.format("1 test question")
    assert said(None, None, 0) == too_few.format("no test question")
    assert said(None, None, leaks=True) == (
        "contrast-wrong: its LAS cannot be compared with greedy's: of contrast-wrong, every rationale leaks "
        "the answer, so LAS of the non-leaking group is undefined; contrast-wrong's simulation gain, without "
        "the adjustment for leaking, is 0.50 (95 % interval 0.34 to 0.69)."
    )


def test_a_single_method_is_compared_with_no_help_at_all() -> None:
    one = method_report("greedy")
    las_is = {"las": 0.467, "ci95": (0.3, 0.6), "reason": ""}
    assert verdicts([replace(one, las=one.las | las_is)], []) == [
        "greedy: LAS is 0.47 (95 % interval 0.30 to 0.60), so its rationales tell something about its "
        "answers."
    ]
    assert "cannot be told" in verdicts([replace(one, las=one.las | {"ci95": (-0.1, 0.6)})], [])[0]
    assert verdicts([method_report("greedy", leaks=True)], [])[0].startswith(
        "greedy: LAS is undefined: every"
    )


def test_differences_stand_in_the_table_and_on_the_page_with_their_intervals() -> None:
    methods = [method_report("greedy"), method_report("contrast-wrong")]
    las_part, accuracy = Difference(0.24, (0.18, 0.3), 32), Difference(-0.05, (-0.1, 0.02), 32)
    pairs = [MethodDifference("contrast-wrong", "greedy", las_part, accuracy)]
    rows = [line.split("  ") for line in text_table(methods, pairs).splitlines()]
    cells = [cell.strip() for cell in rows[-1] if cell.strip()]
    assert cells == ["contrast-wrong", "+0.240", "[0.180, 0.300]", "-0.050", "[-0.100, 0.020]", "32"]
    html = render_html(SUMMARY, methods, [], pairs=pairs, verdicts=["<b>first</b>"])
    table = html[html.index("Differences from greedy") :]
    assert '<td>+0.240<span class="ci">[0.180, 0.300]</span></td>' in table
    assert '<td>-0.050<span class="ci">[-0.100, 0.020]</span></td>' in table
    assert html.index("&lt;b&gt;first&lt;/b&gt;") < html.index("<h2>Methods")
    few = [replace(pairs[0], las=replace(las_part, num_questions=4))]
    assert "+0.240" not in text_table(methods, few) + render_html(SUMMARY, methods, [], pairs=few)


def test_what_is_really_so_stands_beside_las_where_it_is_known_and_nowhere_else() -> None:
    plain = method_report("greedy")
    known = replace(method_report("contrast-wrong"), ground_truth=TRUTH)
    header, _, first, second, *_ = text_table([plain, known]).splitlines()
    place = header.index("truth")
    assert (first[place:].split()[0], second[place:].split()[0]) == ("-", "0.760")
    html = render_html(SUMMARY, [plain, known], [])
    section = html[html.index("What is really so") : html.index("LAS and accuracy")]
    assert "<th>LAS</th><th>following</th><th>cue</th>" in section
    assert '<td>0.760<span class="ci">[0.730, 0.790]</span></td>' in section and "0.467" in section
    few = replace(known, ground_truth=TRUTH | {"n": 12})
    assert "0.760" not in render_html(SUMMARY, [few], []) and "not measured (n = 12)" in text_table([few])
    assert "truth" not in text_table([plain]) and "really so" not in render_html(SUMMARY, [plain], [])


def test_a_verdict_names_what_is_really_so_where_it_is_known_of_both() -> None:
    methods = [replace(method_report(name), ground_truth=TRUTH) for name in ("greedy", "contrast-wrong")]
    found = Difference(0.24, (0.18, 0.3), 32)
    pairs = [MethodDifference("contrast-wrong", "greedy", found, found)]
    ending = (
        "; what is really so: its answers follow its rationales in 0.76 of the questions, greedy's in 0.76."
    )
    assert verdicts(methods, pairs)[0].endswith(ending)
    one_knows = [method_report("greedy"), methods[1]]
    assert "really" not in verdicts(one_knows, pairs)[0]


def test_ground_truth_of_the_answers_is_in_the_report(tmp_path) -> None:
    folder = scored_run(tmp_path)
    old = folder.require("answers", "score")
    folder.begin("answers", settings=old.settings, input=old.input, overwrite=True)
    folder.finish(Manifest("answers", old.settings, old.input, 1, 1, 0, {"ground_truth": TRUTH}))
    assert folder.require("answers", "score").fingerprint == fingerprint(old.settings, old.input)
    for stage in ("simulator", "simulations"):
        assert folder.manifest(stage), stage
    report(parse_config({"run_dir": str(tmp_path)}))
    (method,) = json.loads(folder.read_bytes("report.json"))["methods"]
    assert method["ground_truth_faithfulness"] == 0.76 and method["ground_truth"] == TRUTH
