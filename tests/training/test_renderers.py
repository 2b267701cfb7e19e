"""What a student and a simulator learn from which rows, and what a control exchanges."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

from cotray.prompts.simulator import simulator_example
from cotray.prompts.student import student_example
from cotray.records import Rationale, StudentAnswer
from cotray.training.renderers import (
    RejectedRenderer,
    SimulatorRenderer,
    StudentRenderer,
    key_of,
    rationale_only,
    shuffled_rationales,
)


def rows() -> list[Rationale]:
    base = Rationale("", "yes_no", "?", ("yes", "no"), "yes", target_answer="yes")
    return [
        replace(base, id=f"{name}{number}", split=split, kind=kind, rationale=f"{split} {kind} {number}")
        for number in range(9)
        for name, split in (("q", "train"), ("d", "dev"))
        for kind in ("factual", "counterfactual")
    ]


def test_shuffled_rationales_are_those_of_other_questions_of_the_same_split_and_kind() -> None:
    original = rows()
    shuffled = shuffled_rationales(original, seed=1)
    for row in original:
        assert shuffled[key_of(row)] != row.rationale
        assert shuffled[key_of(row)].startswith(f"{row.split} {row.kind} ")
    assert Counter(shuffled.values()) == Counter(row.rationale for row in original)


def test_which_rationale_a_question_gets_depends_on_the_seed_and_not_on_the_order_of_the_rows() -> None:
    mixed = random.Random(0).sample(rows(), len(rows()))
    assert shuffled_rationales(rows(), seed=1) == shuffled_rationales(mixed, seed=1)
    assert shuffled_rationales(rows(), seed=1) != shuffled_rationales(mixed, seed=2)


def test_a_question_alone_keeps_its_rationale() -> None:
    alone = rows()[:1]
    assert shuffled_rationales(alone, seed=1) == {key_of(alone[0]): alone[0].rationale}


def rendered(renderer: StudentRenderer | RejectedRenderer, given: list[Rationale]) -> list:
    return [example for unit in renderer(given, is_encoder_decoder=False) for example in unit]


def test_a_student_learns_the_train_split_and_is_measured_on_the_factual_rows_of_dev() -> None:
    given = [*rows(), replace(rows()[0], id="failed", error="no memory"), replace(rows()[0], split="test")]
    renderer = StudentRenderer("on", 1, ("factual", "counterfactual"), {key_of(given[0]): 0.5})
    found = Counter((e.split, e.kind, e.weight) for e in rendered(renderer, given))
    assert found == {
        ("train", "factual", 1.0): 8,
        ("train", "factual", 0.5): 1,
        ("train", "counterfactual", 1.0): 9,
        ("dev", "factual", 1.0): 9,
    }
    none = replace(renderer, kinds=("factual",), weights={key_of(given[0]): 0.0})
    assert {e.kind for e in rendered(none, given)} == {"factual"}
    assert "q0" not in {e.id for e in rendered(none, given)}


def test_an_exchanged_rationale_is_read_in_place_of_the_rows_own() -> None:
    row = rows()[0]
    renderer = StudentRenderer("off", 1, ("factual",), rationales={key_of(row): "Another."})
    (example,) = rendered(renderer, [row])
    assert example == student_example(
        replace(row, rationale="Another."), tags="off", seed=1, is_encoder_decoder=False
    )


def test_of_conseqs_pairs_the_rationale_alone_is_learned_or_unlearned_and_nothing_is_dev() -> None:
    given, only = rows(), {("factual", "q1", 0)}
    learned = rendered(StudentRenderer("on", 1, ("factual", "counterfactual"), only=only), given)
    assert Counter((e.split, e.kind) for e in learned) == {
        ("train", "factual"): 1,
        ("train", "counterfactual"): 9,
    }
    (chosen,) = [e for e in learned if e.kind == "factual"]
    assert chosen.target[chosen.supervise_from : chosen.supervise_to] == "train factual 1"
    (rejected,) = rendered(RejectedRenderer("on", 1, only), [r for r in given if r.split == "train"])
    assert replace(rejected, kind="factual") == chosen
    assert chosen == rationale_only(student_example(given[4], tags="on", seed=1, is_encoder_decoder=False))


def test_a_simulator_learns_each_answer_of_train_from_question_rationale_and_both() -> None:
    answer = StudentAnswer("a", "yes_no", "Q?", ("yes", "no"), "yes", rationale="R.", student_answer="no")
    given = [answer, replace(answer, id="b", split="dev"), replace(answer, id="c", split="test")]
    units = list(SimulatorRenderer()(given, is_encoder_decoder=False))
    assert [[(e.id, e.split, e.kind) for e in unit] for unit in units] == [
        [("a", "train", "factual"), ("a", "train", "x"), ("a", "train", "e")],
        [("b", "dev", "factual")],
    ]
    both, x, e = units[0]
    assert both == simulator_example(answer, drop_x=False, drop_e=False)
    assert replace(x, kind="factual") == simulator_example(answer, drop_x=False, drop_e=True)
    assert replace(e, kind="factual") == simulator_example(answer, drop_x=True, drop_e=False)
