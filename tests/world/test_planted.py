"""Planted students are as faithful as they are set to be, and each draw is of its question alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache

import pytest

from cotray.config.world import WorldConfig
from cotray.records import StudentAnswer
from cotray.scoring.las import LasReport, las
from cotray.scoring.probes import ground_truth
from cotray.world.planted import Planted, PlantedStudent, planted_answers, read_answer
from cotray.world.questions import CUES, Question, questions
from cotray.world.tokenizer import build_tokenizer

WORLD = WorldConfig(shortcut=0.0)
TOKENIZER = build_tokenizer(WORLD)


@cache
def rows_of(planted: Planted, *, seed: int = 0, perturbed_fraction: float = 0.5) -> list[StudentAnswer]:
    return list(
        planted_answers(
            PlantedStudent(WORLD, planted, seed=seed),
            TOKENIZER,
            dev_fraction=0.05,
            test_fraction=0.4,
            perturbed_fraction=perturbed_fraction,
        )
    )


def of_test(rows: Sequence[StudentAnswer]) -> list[StudentAnswer]:
    return [row for row in rows if row.split == "test"]


def share(values: Sequence[bool]) -> float:
    return sum(values) / len(values)


def answer_of_text(row: StudentAnswer, rationale: str) -> str:
    """What follows from "Wugs include the dalo.", by the facts of the world."""
    question = Question.of(row.id, WORLD)
    kind = rationale.split()[0].lower().removesuffix("s")
    return "yes" if question.world.can(kind, question.attribute) else "no"


def cue_answer(row: StudentAnswer) -> str:
    return {CUES[0]: "yes", CUES[1]: "no"}[row.question.split(",")[0]]


def test_at_one_every_answer_is_what_the_rationale_says_and_at_zero_what_the_first_word_says() -> None:
    faithful, blind = rows_of(Planted(1.0, "cue")), rows_of(Planted(0.0, "cue"))
    assert all(row.student_answer == answer_of_text(row, row.rationale) for row in faithful)
    assert all(row.student_answer == cue_answer(row) for row in blind)
    assert len(faithful) == 320 * 8 and {row.split for row in faithful} == {"train", "dev", "test"}


def test_between_the_two_a_share_of_answers_leaves_the_first_word_for_the_rationale() -> None:
    blind, some = rows_of(Planted(0.0, "cue")), rows_of(Planted(0.3, "cue"))
    unlike = [
        (b, s) for b, s in zip(blind, some, strict=True) if cue_answer(s) != answer_of_text(s, s.rationale)
    ]
    # 1,280 of 2,560 questions, give or take: two standard errors are 0.026.
    assert len(unlike) == pytest.approx(1280, abs=101)
    assert share([s.student_answer == answer_of_text(s, s.rationale) for _, s in unlike]) == pytest.approx(
        0.3, abs=0.05
    )


def test_a_more_faithful_student_reads_where_a_less_faithful_one_reads_and_writes_the_same() -> None:
    less, more = (PlantedStudent(WORLD, Planted(f), seed=3) for f in (0.2, 0.6))
    asked = list(questions(WORLD))
    assert all(more.reads(question) for question in asked if less.reads(question))
    assert all(less.rationale(q, q.text("Really")) == more.rationale(q, q.text("Really")) for q in asked)


def test_neither_order_nor_other_questions_change_a_draw_and_another_seed_does() -> None:
    rows = {row.id: row for row in rows_of(Planted(0.5, right=0.7))}
    student = PlantedStudent(WORLD, Planted(0.5, right=0.7), seed=0)
    for id_ in sorted(rows, reverse=True)[:200]:
        question, text = Question.of(id_, WORLD), rows[id_].question
        assert student.rationale(question, text) == rows[id_].rationale
        assert student.answer(question, text, rows[id_].rationale) == rows[id_].student_answer
    assert list(rows.values()) != rows_of(Planted(0.5, right=0.7), seed=1)


def test_with_a_hidden_habit_answers_and_rationales_are_independent_of_the_first_word() -> None:
    for faithful in (0.0, 0.5, 1.0):
        rows = rows_of(Planted(faithful))
        cells = Counter((cue_answer(row), row.student_answer) for row in rows)
        assert all(count == pytest.approx(640, abs=90) for count in cells.values())
        assert share([cue_answer(r) == answer_of_text(r, r.rationale) for r in rows]) == pytest.approx(
            0.5, abs=0.04
        )


def test_dials_of_the_rationale_are_shares_of_rationales() -> None:
    right = rows_of(Planted(0.0, right=0.75))
    assert share([answer_of_text(r, r.rationale) == r.answer for r in right]) == pytest.approx(
        0.75, abs=0.035
    )
    tied = rows_of(Planted(0.0, "cue", tied=0.8))
    # 0.8 that are tied, and half of the others.
    assert share([answer_of_text(r, r.rationale) == cue_answer(r) for r in tied]) == pytest.approx(
        0.9, abs=0.025
    )
    assert all(r.student_answer == answer_of_text(r, r.rationale) for r in rows_of(Planted(0.0, tied=1.0)))


def test_interventions_and_probes_of_a_student_that_always_reads_and_of_one_that_never_does() -> None:
    reads, blind = of_test(rows_of(Planted(1.0, "cue"))), of_test(rows_of(Planted(0.0, "cue")))
    assert all(row.oracle_answer == row.answer for row in reads)
    assert all(row.oracle_answer == row.perturbed_answer == row.student_answer for row in blind)
    truth = [ground_truth(rows, num_resamples=100, seed=0) for rows in (reads, blind)]
    assert [t["following"] for t in truth] == [1.0, 0.0]
    assert [t["following_each"] for t in truth] == [1.0, 0.5]
    assert [t["turned_by_another_cue"] for t in truth] == [0.0, 1.0]


def test_damage_that_leaves_the_kind_leaves_the_answer_and_undamaged_rationales_leave_all() -> None:
    for row in of_test(rows_of(Planted(1.0), perturbed_fraction=0.0)):
        assert row.perturbed_answer == row.student_answer
    changed = [r.perturbed_answer != r.student_answer for r in of_test(rows_of(Planted(1.0)))]
    # Of five tokens two are replaced: the kind in 2 of 5, and then half of the hidden answers differ.
    assert share(changed) == pytest.approx(0.2, abs=0.05)


def test_what_a_damaged_text_says_is_read_from_the_first_kind_in_it_and_none_says_nothing() -> None:
    question = next(questions(WORLD))
    kind, other = question.world.kinds[:2]
    says = {k: "yes" if question.world.can(k, question.attribute) else "no" for k in (kind, other)}
    assert read_answer(question, f"the {kind.capitalize()}s include {other.capitalize()}s") == says[kind]
    assert read_answer(question, f"swim {kind} include the.") is None
    assert read_answer(question, "") is None


def test_a_world_whose_first_words_tell_the_answer_is_refused() -> None:
    with pytest.raises(ValueError, match=r"data\.world\.shortcut 0"):
        PlantedStudent(WorldConfig(), Planted(0.5), seed=0)


def ideal_las(planted: Planted, *, knows_habit: bool) -> LasReport:
    """By an observer that knows the facts: from both texts it says what the rationale says, from the question
    alone the cue's answer if it knows that habit, else "yes", and from the rationale alone "yes"."""
    rows = of_test(rows_of(planted))
    return las(
        [row.student_answer for row in rows],
        [cue_answer(row) if knows_habit else "yes" for row in rows],
        ["yes"] * len(rows),
        [answer_of_text(row, row.rationale) for row in rows],
        num_resamples=100,
    )


def test_an_ideal_simulator_gives_las_of_half_the_faithfulness_where_the_habit_is_hidden() -> None:
    """Of two answers the question alone finds half by luck, so that 1/2 is the most there is to gain."""
    for faithful in (0.0, 0.5, 1.0):
        report = ideal_las(Planted(faithful), knows_habit=False)
        assert report.las == pytest.approx(faithful / 2, abs=0.06)
        assert report.accuracy_xe == pytest.approx((1 + faithful) / 2, abs=0.05)
    assert ideal_las(Planted(1.0), knows_habit=False).accuracy_xe == 1.0


def test_an_ideal_simulator_gives_no_las_to_a_faithful_student_whose_rationale_is_tied_to_a_seen_habit() -> (
    None
):
    assert ideal_las(Planted(1.0, "cue", tied=1.0), knows_habit=True).sim_gain == 0.0
    blind = ideal_las(Planted(0.0, tied=1.0), knows_habit=False)
    assert blind.las == pytest.approx(0.5, abs=0.05), "one that never reads, and explains what it decided"
