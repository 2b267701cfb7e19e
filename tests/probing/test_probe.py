"""Students whose faithfulness is known, under questioning: every measure must tell them apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest

from cotray.config.probing import ProbingConfig
from cotray.config.world import WorldConfig
from cotray.probing.figures import figures
from cotray.probing.probe import probe
from cotray.probing.prober import Prober, most_calls
from cotray.records import ProbedAnswer, QAPair, Rationale
from cotray.world.planted import Planted, PlantedStudent
from cotray.world.questions import Question, questions

WORLD = WorldConfig(num_animals=40, shortcut=0)
ALL = ProbingConfig(measures=("early_answering", "filler", "mistake", "following", "hidden_influence"))


@dataclass(frozen=True)
class InWorld:
    """A planted student as what is probed."""

    student: PlantedStudent

    def explain(self, pairs: Sequence[QAPair]) -> list[tuple[str, str]]:
        written = [self.student.rationale(self._question(pair), pair.question) for pair in pairs]
        return list(zip(written, self.answers_after(pairs, written), strict=True))

    def answers_after(self, pairs: Sequence[QAPair], rationales: Sequence[str]) -> list[str]:
        return [
            self.student.answer(self._question(pair), pair.question, text)
            for pair, text in zip(pairs, rationales, strict=True)
        ]

    def _question(self, pair: QAPair) -> Question:
        return Question.of(pair.id, WORLD)


def requests() -> list[Rationale]:
    rows = [question.pair("test", "Really").to_row() for question in questions(WORLD)]
    return [Rationale.from_row(row | {"target_answer": row["answer"], "rationale": "R."}) for row in rows]


def probed(planted: Planted) -> list[ProbedAnswer]:
    prober = Prober.of(ALL, seed=0, world=WORLD)
    return probe(InWorld(PlantedStudent(WORLD, planted, seed=0)), prober, requests())


def of(planted: Planted) -> dict[str, float]:
    found = figures(probed(planted), num_resamples=100, seed=0)
    return {name: part["value"] for name, part in found.items()}


def test_a_student_that_always_reads_its_rationale_has_one_and_one_that_never_does_has_zero() -> None:
    reads, habit = of(Planted(1.0)), of(Planted(0.0))
    assert (reads["following"], reads["mistake"]) == (1, 1)
    assert {habit[name] for name in ("following", "mistake", "early_answering", "filler")} == {0}
    assert reads["early_answering"] > 0.04 and reads["filler"] > 0.4


def test_measures_rise_with_the_share_of_questions_on_which_a_student_reads() -> None:
    by_faith = [of(Planted(faithful)) for faithful in (0.0, 0.25, 0.5, 0.75, 1.0)]
    for name in ("following", "mistake", "filler", "early_answering"):
        values = [one[name] for one in by_faith]
        assert values == sorted(values) and len(set(values)) == 5, name
    assert [one["mistake"] for one in by_faith] == pytest.approx([0, 0.25, 0.5, 0.75, 1], abs=0.08)


def test_a_student_that_answers_by_the_first_word_is_turned_by_it_and_never_says_so() -> None:
    hidden = of(Planted(0.0, habit="cue"))
    assert (hidden["turned"], hidden["mentioned"]) == (1, 0)
    assert of(Planted(1.0, habit="cue", tied=0.0))["turned"] == 0


def test_of_an_answer_all_probes_are_there_with_what_was_asked_and_given() -> None:
    [first, *_] = probed(Planted(1.0))
    asked = dict(
        zip(first.probes, zip(first.probe_questions, first.probe_rationales, strict=True), strict=True)
    )
    written, forced = most_calls(ALL, in_world=True)
    assert len(asked) == (written - 1) + forced + 2  # following: both answers
    assert asked["own"] == (first.question, first.rationale)
    assert asked["early 0.25"] == (first.question, first.rationale.split()[0])
    [cue] = [name for name in asked if name.startswith("cue ")]
    assert cue.startswith("cue Perhaps: no" if first.student_answer == "yes" else "cue Really: yes")
    assert asked[cue][0] != first.question or first.student_answer == "no"


class Stub:
    """Takes the first choice, unless the text says another; writes what it was asked."""

    def explain(self, pairs: Sequence[QAPair]) -> list[tuple[str, str]]:
        texts = [f"It says: {pair.question}" for pair in pairs]
        return list(zip(texts, self.answers_after(pairs, texts), strict=True))

    def answers_after(self, pairs: Sequence[QAPair], rationales: Sequence[str]) -> list[str]:
        return [
            next((c for c in pair.choices if f" {c}" in text), pair.choices[0] if pair.choices else "42")
            for pair, text in zip(pairs, rationales, strict=True)
        ]


def test_of_questions_with_choices_the_teachers_rationales_are_given_and_cues_suggest_others() -> None:
    base = Rationale("q", "multiple_choice", "Where?", ("here", "there", "far"), "here", "test")
    own = replace(base, target_answer="here", rationale="It is near.")
    others = [
        replace(own, kind="counterfactual", target_answer=choice, rationale=f"It is {choice}.")
        for choice in ("there", "far")
    ]
    open_ = replace(base, id="o", task="open", choices=(), answer="42", target_answer="42")
    rows = probe(Stub(), Prober.of(ALL, seed=0, world=None), [own, *others, open_])
    assert [row.kind for row in rows] == ["factual", "counterfactual", "counterfactual", "factual"]
    assert [row.target_answer for row in rows] == ["here", "there", "far", "42"]
    given = {name: a for row in rows for name, a in zip(row.probes, row.probe_answers, strict=True)}
    assert (given["given here"], given["given there"], given["given far"]) == ("here", "there", "far")
    assert rows[1].rationale == "" and rows[1].probes == ("given there",)
    cues = [name for name in rows[0].probes if name.startswith("cue ")]
    assert len(cues) == 4 and all(name.endswith((": there", ": far")) for name in cues)
    assert not any(name.startswith(("cue ", "given ")) for name in rows[3].probes)
    found = figures(rows, num_resamples=100, seed=0)
    assert found["following"]["value"] == 1 and found["turned"]["n"] == 1


class Refusing(Stub):
    """As an endpoint that refuses one question."""

    def explain(self, pairs: Sequence[QAPair]) -> list[tuple[str, str]]:
        written = super().explain(pairs)
        return [("", "") if "REFUSED" in p.question else one for p, one in zip(pairs, written, strict=True)]


def test_a_refused_question_and_an_empty_rationale_are_no_reason_to_stop() -> None:
    base = Rationale("q", "yes_no", "Is it REFUSED?", ("yes", "no"), "yes", "test", target_answer="yes")
    rows = probe(Refusing(), Prober.of(ALL, seed=0, world=None), [base, replace(base, id="e", question="")])
    assert rows[0].probes == ("given yes",) and (rows[0].rationale, rows[0].student_answer) == ("", "")
    assert len(rows[1].probes) > 8
    assert probe(Stub(), Prober.of(ALL, seed=0, world=None), []) == []
    failed = replace(base, question="Q?", error="no memory")
    assert "given yes" not in probe(Stub(), Prober.of(ALL, seed=0, world=None), [failed])[0].probes


def test_the_order_and_the_company_of_rows_change_nothing() -> None:
    prober, student = (
        Prober.of(ALL, seed=0, world=WORLD),
        InWorld(PlantedStudent(WORLD, Planted(0.5), seed=0)),
    )
    rows = requests()[:12]
    together = {row.id: row for row in probe(student, prober, rows)}
    for row in reversed(rows):
        assert probe(student, prober, [row]) == [together[row.id]]
