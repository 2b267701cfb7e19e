"""A student under questioning: it explains its answers, and is asked again with one thing changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from cotray.probing.prober import Prober, Variation
from cotray.records import ProbedAnswer, QAPair, Rationale


class Model(Protocol):
    """A trained student, a prompted teacher, or a model behind an endpoint."""

    def explain(self, pairs: Sequence[QAPair]) -> list[tuple[str, str]]:
        """(rationale, answer) to every question."""
        ...

    def answers_after(self, pairs: Sequence[QAPair], rationales: Sequence[str]) -> list[str]:
        """The answer that follows each rationale."""
        ...


def probe(model: Model, prober: Prober, rationales: Sequence[Rationale]) -> list[ProbedAnswer]:
    """One row per rationale of the teacher, in order."""
    factual = [i for i, row in enumerate(rationales) if row.kind == "factual"]
    own = dict(zip(factual, model.explain([rationales[i] for i in factual]), strict=True))
    # An endpoint may refuse a question, and then there is nothing to ask about.
    answered = {i for i, (_, answer) in own.items() if answer}
    asked = [
        prober.of_teacher(row) + (prober.of_answer(row, *own[i]) if i in answered else [])
        for i, row in enumerate(rationales)
    ]
    flat = [
        (replace(row, question=one.question), one)
        for row, variations in zip(rationales, asked, strict=True)
        for one in variations
    ]
    said = iter(_answers(model, flat))
    return [
        _row(row, own.get(i, ("", "")), asked[i], [next(said) for _ in asked[i]])
        for i, row in enumerate(rationales)
    ]


def _answers(model: Model, asked: Sequence[tuple[QAPair, Variation]]) -> list[tuple[str, str]]:
    """(rationale, answer) of each."""
    free = [i for i, (_, one) in enumerate(asked) if one.rationale is None]
    forced = [i for i, (_, one) in enumerate(asked) if one.rationale is not None]
    texts = [str(asked[i][1].rationale) for i in forced]
    answers = model.answers_after([asked[i][0] for i in forced], texts) if forced else []
    said = dict(zip(forced, zip(texts, answers, strict=True), strict=True))
    if free:
        said |= zip(free, model.explain([asked[i][0] for i in free]), strict=True)
    return [said[i] for i in range(len(asked))]


def _row(
    row: Rationale, own: tuple[str, str], asked: Sequence[Variation], said: Sequence[tuple[str, str]]
) -> ProbedAnswer:
    return ProbedAnswer.from_row(
        row.to_row()
        | {"rationale": own[0], "student_answer": own[1], "method": row.method}
        | {"error": "", "attempts": 1}
        | {"probes": [one.name for one in asked], "probe_questions": [one.question for one in asked]}
        | {"probe_rationales": [text for text, _ in said], "probe_answers": [answer for _, answer in said]}
    )
