"""Scores without a model, the rules that `train` honours, and the figures, against values by hand."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from cotray.config import RunConfig, parse_config
from cotray.config.assessing import Rule
from cotray.errors import ConfigError
from cotray.models.loading import load_model, load_tokenizer
from cotray.models.sequences import encode
from cotray.quality.assessor import Assessor, OtherFacts, fact_sources
from cotray.quality.selection import describe_selection, select
from cotray.quality.summary import quality
from cotray.quality.surface import surface
from cotray.records import Assessment, QAPair, Rationale, TrainExample
from cotray.report.html import render_html
from cotray.report.plots import boxes_svg
from cotray.report.report import MethodReport
from cotray.scoring.las import las
from cotray.training.step import Collator, accumulate_gradients


def rationale(text: str, *, task: str = "yes_no", answer: str = "yes", choices=("yes", "no")) -> Rationale:
    pair = QAPair("q", task, "Does rain fall from clouds?", choices, answer)  # type: ignore[arg-type]
    return Rationale.from_row(pair.to_row() | {"target_answer": answer, "rationale": text})


def test_copy_rate_is_the_share_of_word_pairs_that_the_question_has() -> None:
    """does-rain, rain-fall, fall-slowly, slowly-from, from-clouds: three of five."""
    assert surface(rationale("Does rain fall slowly from clouds?")).copy_rate == pytest.approx(3 / 5)
    assert surface(rationale("Rain")).copy_rate == 1.0
    assert surface(rationale("")).copy_rate == 0.0


def test_repetition_is_the_share_of_word_pairs_that_came_before() -> None:
    """it-is, is-it, it-is, is-it, it-is: two distinct ones of five."""
    result = surface(rationale("It is, it is; it is."))
    assert result.repetition == pytest.approx(3 / 5) and result.num_words == 6
    assert surface(rationale("One two three.")).repetition == 0.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Rain falls. So the answer is yes.", True),
        ("Yes, it rains.", True),
        ("It rains. Yes.", True),
        ("The answer is no.", False),
        ("He said yes to rain.", False),
        ("Yesterday it fell.", False),
        ("", False),
    ],
)
def test_a_label_of_two_is_stated_only_outright(text: str, expected: bool) -> None:
    assert surface(rationale(text)).states_answer is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("So the answer is no", True),
        ("The answer is no because rain is rare.", True),
        ("This is no, it cannot.", True),
        ("It is no longer made.", False),
        ("This is no problem for rain.", False),
    ],
)
def test_no_states_the_label_only_where_the_phrase_ends_with_it(text: str, expected: bool) -> None:
    assert surface(rationale(text, answer="no")).states_answer is expected


def test_a_choice_is_stated_where_its_words_are() -> None:
    choices = ("art", "party")
    both = {"task": "multiple_choice", "answer": "art", "choices": choices}
    assert surface(rationale("They like Art.", **both)).states_answer
    assert not surface(rationale("They like the party.", **both)).states_answer


def test_other_facts_depend_on_the_question_alone_and_are_never_its_own() -> None:
    pool = [QAPair(str(i), "yes_no", "", (), "yes", facts=(f"fact {i}",)) for i in range(5)]
    draw, again = OtherFacts(pool, seed=1), OtherFacts(pool[::-1], seed=1)
    drawn = {pair.id: draw(pair) for pair in pool}
    assert drawn == {pair.id: again(pair) for pair in pool}
    assert all(facts and facts != (f"fact {id_}",) for id_, facts in drawn.items())
    assert OtherFacts(pool[:1], seed=1)(pool[0]) == ()


def assessment(id_: str, *, kind: str = "factual", split: str = "train", **scores) -> Assessment:
    row = rationale("Clouds make rain.").to_row() | {"id": id_, "kind": kind, "split": split}
    return Assessment.from_row(row | scores)


ROWS = [
    assessment("a", grounded=-0.1, novel=0.4),
    assessment("b", grounded=-2.0, novel=0.1),
    assessment("c", grounded=-0.5, novel=0.3),
    assessment("d", grounded=None, novel=0.2),
    assessment("e", grounded=-1.0, novel=0.0, split="dev"),
    assessment("f", grounded=-3.0, novel=0.0, kind="counterfactual"),
    assessment("g", grounded=-4.0, novel=0.0, kind="counterfactual"),
]


def caught(**rule) -> list[str]:
    (indices,) = select(ROWS, [Rule(**rule)]).caught
    return [ROWS[i].id for i in indices]


def test_rules_catch_training_rows_that_have_the_score_on_the_wrong_side_of_the_bound() -> None:
    assert caught(score="grounded", below=-0.5) == ["b", "f", "g"]
    assert caught(score="novel", above=0.25) == ["a", "c"]


def test_shares_are_of_the_rows_of_a_kind_that_have_the_score() -> None:
    """Of three factual and two counterfactual scores, 0.5 is one each."""
    assert caught(score="grounded", lowest=0.5) == ["b", "g"]
    assert caught(score="grounded", highest=0.5) == ["a", "f"]
    assert caught(score="grounded", lowest=0.3) == []


def test_equal_scores_are_cut_by_id_whatever_the_order() -> None:
    rows = [assessment(id_, grounded=-1.0) for id_ in "dcba"]
    (indices,) = select(rows, [Rule(score="grounded", lowest=0.5)]).caught
    assert {rows[i].id for i in indices} == {"a", "b"}


def test_a_row_that_several_rules_catch_has_the_product_of_their_weights() -> None:
    rules = [
        Rule(score="grounded", below=-0.4, weight=0.5),
        Rule(score="novel", below=0.2, weight=0.5),
        Rule(score="grounded", below=-3.5),
    ]
    selection = select(ROWS, rules)
    assert selection.weights == (1.0, 0.25, 0.5, 1.0, 1.0, 0.25, 0.0)
    described = describe_selection(ROWS, rules, selection)
    assert (described["dropped"], described["down_weighted"]) == (1, 3)
    assert [rule["caught"] for rule in described["rules"]] == [4, 3, 1]
    assert [example["id"] for example in described["rules"][0]["examples"]] == ["g", "f", "b", "c"]


@pytest.mark.parametrize(
    ("assessing", "problem"),
    [
        ({"measures": ["quals"], "rules": [{"score": "grounded"}]}, "exactly one of below"),
        (
            {"measures": ["quals"], "splits": ["test"], "rules": [{"score": "grounded", "below": 0}]},
            "add train",
        ),
        ({"measures": ["quals"], "rules": [{"score": "novel", "below": 0, "above": 1}]}, "exactly one"),
        ({"rules": [{"score": "grounded", "below": 0}]}, "add quals to measures"),
        ({"measures": ["magic"]}, "assessing.measures.0"),
    ],
)
def test_rules_that_cannot_work_are_refused(assessing: dict, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        parse_config({"assessing": assessing})


def test_nothing_is_assessed_unless_told() -> None:
    assert RunConfig().assessing.measures == () and RunConfig().assessing.rules == ()


def test_a_weight_counts_an_example_in_the_sum_and_in_the_number_of_tokens() -> None:
    """Two equal examples with weights .25 and .75 are one; a third with 0.5 pulls by its share of tokens."""
    model, tokenizer = load_model("random:llama", dtype=torch.float32), load_tokenizer("random:llama")
    first, second = TrainExample("a", "factual", "q\n", "abcd"), TrainExample("b", "factual", "q\n", "xy")

    def loss(*examples: TrainExample) -> tuple[float, torch.Tensor]:
        model.zero_grad()
        micro = Collator(model, tokenizer, 2)(
            [encode(example, tokenizer, is_encoder_decoder=False) for example in examples]
        )
        result = accumulate_gradients(model, micro, [], alpha=0.0)
        return result.total, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    alone, gradient = loss(first)
    split, same = loss(replace(first, weight=0.25), replace(first, weight=0.75))
    assert split == pytest.approx(alone, rel=1e-5)
    torch.testing.assert_close(same, gradient, rtol=1e-4, atol=1e-5)
    other, _ = loss(second)
    lengths = [len(encode(e, tokenizer, is_encoder_decoder=False).target) for e in (first, second)]
    mixed, _ = loss(first, replace(second, weight=0.5))
    total = lengths[0] + 0.5 * lengths[1]
    assert mixed == pytest.approx((lengths[0] * alone + 0.5 * lengths[1] * other) / total, rel=1e-5)


def test_figures_are_of_factual_rows_that_have_the_score() -> None:
    rows = [replace(row, shuffled=-5.0 if row.grounded else None) for row in ROWS]
    figures = quality(rows, seed=0)
    assert figures["n"] == 5
    assert figures["grounded"]["n"] == 4 and figures["grounded"]["mean"] == pytest.approx(-0.9)
    assert figures["novel"]["quantiles"][2] == pytest.approx(0.2)
    assert figures["fact_auc"]["value"] == 1.0
    assert "num_words" not in figures and "simulation" not in figures


def test_saying_nothing_is_a_wrong_answer_of_the_simulator_and_counts() -> None:
    said = [("", "", "Rome"), ("Rome", "", "Rome"), ("", "", "")]
    rows = [
        assessment(str(i), target_answer="Rome", sim_x=x, sim_e=e, sim_xe=xe)
        for i, (x, e, xe) in enumerate(said)
    ]
    assert quality(rows, seed=0)["simulation"]["sim_gain"] == pytest.approx(1 / 2)
    assert [row.sim_gain for row in rows] == [1, 0, None]


def test_a_rule_can_leave_out_rationales_that_lead_the_simulator_away() -> None:
    said = [("yes", "no", "no"), ("no", "no", "yes"), ("yes", "yes", "yes"), ("", "", "")]
    rows = [assessment(str(i), sim_x=x, sim_e=e, sim_xe=xe) for i, (x, e, xe) in enumerate(said)]
    selection = select(rows, [Rule(score="sim_gain", below=0)])
    assert selection.weights == (0.0, 1.0, 1.0, 1.0)


def test_simulation_gain_is_against_the_answer_that_the_rationale_is_for() -> None:
    """From x right once of three, from x and e twice."""
    said = [("yes", "no", "yes"), ("no", "no", "yes"), ("no", "yes", "no")]
    rows = [assessment(str(i), sim_x=x, sim_e=e, sim_xe=xe) for i, (x, e, xe) in enumerate(said)]
    figures = quality(rows, seed=0)["simulation"]
    assert figures["sim_gain"] == pytest.approx(1 / 3) and figures["num_leaking"] == 1


def test_every_measure_of_a_real_model_fills_its_columns() -> None:
    config = parse_config(
        {
            "assessing": {
                "measures": ["surface", "quals", "simulation"],
                "model": "random:llama",
                "num_demonstrations": 1,
                "num_groups": 2,
                "max_new_tokens": 4,
            }
        }
    ).assessing
    (row,) = Assessor(config, other_facts=OtherFacts([], seed=0)).assess([rationale("Clouds make rain.")])
    assert row.num_words == 3 and row.num_pairs == 0 and row.grounded is None
    assert row.sim_x in ("yes", "no") and row.sim_xe in ("yes", "no")
    assert row.rationale == "Clouds make rain." and row.qags is None


def test_facts_that_are_the_rationale_are_no_source_for_qags() -> None:
    own = Rationale.from_row(rationale("Rain falls.").to_row() | {"facts": ("Rain", "falls.")})
    other = replace(own, rationale="Clouds give rain.")
    assert fact_sources([own, other]) == ["", "Does rain fall from clouds? The answer is yes. Rain falls."]


def test_a_model_trained_to_write_pairs_is_not_prompted_for_anything_else() -> None:
    with pytest.raises(ConfigError, match="qags and simulation prompt the model"):
        parse_config({"assessing": {"measures": ["quals", "qags", "simulation"], "num_demonstrations": 0}})


def test_boxes_are_drawn_of_every_score_there_is_with_or_without_quals() -> None:
    scored = [assessment("1", num_words=5, copy_rate=0.5), assessment("2", num_words=9, copy_rate=0.1)]
    both = [replace(row, qags=0.5, grounded=-1.0) for row in scored]
    rated = [SimpleNamespace(method="m", quality=quality(rows, seed=0)) for rows in (scored, both)]
    svg = boxes_svg(rated)
    for text in ("num words", "copy rate", "qags", "grounded", "nats per token", "share"):
        assert text in svg, text
    assert "nats per token" not in boxes_svg(rated[:1]) and "copy rate" in boxes_svg(rated[:1])
    assert boxes_svg([SimpleNamespace(method="m", quality=None)]) == ""


def test_the_report_shows_quality_and_what_rules_caught_escaped() -> None:
    part = {"value": 0.5, "ci95": (0.25, 0.75), "n": 8}
    history = [{"epoch": 1, "loss_factual": 2.0, "dev_loss": 2.5}]
    rows = [replace(row, rationale="<script>x</script>", shuffled=-5.0) for row in ROWS]
    rules = [Rule(score="grounded", lowest=0.5)]
    selection = describe_selection(rows, rules, select(rows, rules))
    figures = [vars(las("AB", "AB", "AA", "AB")), history, [], {"questions": 8}]
    report = MethodReport(
        "greedy", "runs/x", part, part, part, part, *figures,
        quality=quality(rows, seed=0), selection=selection,
    )  # fmt: skip
    summary = {"title": "t", "seed": 1, "teacher": "t", "student": "s", "simulator": "m", "data": "d"}
    html = render_html(summary, [report], [])
    assert "grounded lowest 0.5" in html and "2 training rationales dropped" in html
    assert "<script" not in html and "&lt;script&gt;" in html
    assert "-0.900" in html and "nats per token" in html
    plain = render_html(summary, [replace(report, quality=None, selection=None)], [])
    assert "rationales dropped" not in plain and "Shuffled" not in plain
