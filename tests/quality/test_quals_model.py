"""QUALS with a real language model that was not trained for it: SmolLM2-135M with the project's prompt."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from cotray.quality.qa_model import QAModel
from cotray.quality.quals import QualsScorer, source_text
from cotray.records import QAPair, Rationale

MODEL = "embedded:smollm2-135m-instruct"
ITEMS = [
    (
        "Could a penguin cross the Channel by flying?", "no",
        ("Penguins are birds that cannot fly.", "Penguins swim with their wings."),
        "A penguin cannot fly, because it uses its wings to swim.",
        "A violin has four strings. Peru exports copper.",
    ),
    (
        "Would butter stay solid in a hot oven?", "no",
        ("Butter melts at about 35 degrees.", "A hot oven has more than 150 degrees."),
        "Butter melts at about 35 degrees, and a hot oven is much hotter.",
        "The library in Lund opens on Sunday. Owls hunt at night.",
    ),
    (
        "Can a train from Paris reach London without a ferry?", "yes",
        ("The Channel Tunnel joins France and England.", "Trains pass through the Channel Tunnel."),
        "Trains pass through the Channel Tunnel, which joins France and England.",
        "Ada baked nine loaves of rye bread. Tulips grow from bulbs.",
    ),
    (
        "Is a spider an insect?", "no",
        ("Insects have six legs.", "A spider has eight legs and is an arachnid."),
        "A spider has eight legs, while insects have six.",
        "The mayor bought a green bicycle. Chess has sixty-four squares.",
    ),
    (
        "Did people write letters with pencils in the Stone Age?", "no",
        ("Pencils are made of graphite and wood.", "Pencils were invented in the sixteenth century."),
        "Pencils were invented in the sixteenth century, long after the Stone Age.",
        "Salmon return to their rivers. Omar plays the trumpet in a band.",
    ),
    (
        "Would a candle burn on the Moon?", "no",
        ("Fire needs oxygen.", "The Moon has no air."),
        "Fire needs oxygen, and the Moon has no air.",
        "Wool comes from sheep. The ferry to Malta leaves at noon.",
    ),
]  # fmt: skip


@dataclass(frozen=True)
class Scored:
    """QUALS of each rationale against its question and facts, and against itself; None without a pair."""

    grounded: Sequence[float | None]
    own: Sequence[float | None]


@pytest.fixture(scope="module")
def scored() -> tuple[Scored, Scored]:
    """The rationales as they are, and with two unrelated sentences each."""
    model = QAModel(MODEL, dtype="float32", num_demonstrations=4)
    scorer = QualsScorer(model, num_groups=4, strength=0.5, max_pairs=4, max_new_tokens=32)
    return _score(scorer, padded=False), _score(scorer, padded=True)


def _score(scorer: QualsScorer, *, padded: bool) -> Scored:
    texts = [f"{text} {unrelated}" if padded else text for _, _, _, text, unrelated in ITEMS]
    sources = []
    for question, answer, facts, *_ in ITEMS:
        asked = QAPair("q", "yes_no", question, ("yes", "no"), answer)
        sources.append(source_text(Rationale.from_row(asked.to_row() | {"target_answer": answer}), facts))
    against = list(zip(sources, texts, strict=True))
    grounded, own = zip(*scorer.against(texts, scorer.pairs(texts), against), strict=True)
    return Scored(grounded, own)


def test_unrelated_sentences_in_rationales_lower_grounded_on_average(scored: tuple[Scored, Scored]) -> None:
    plain, padded = scored
    change = [
        after - before
        for before, after in zip(plain.grounded, padded.grounded, strict=True)
        if before is not None and after is not None
    ]
    assert len(change) >= 4
    assert statistics.fmean(change) < 0


def test_a_rationale_as_its_own_source_has_exactly_zero(scored: tuple[Scored, Scored]) -> None:
    own = [value for part in scored for value in part.own if value is not None]
    assert own == [0.0] * len(own) and len(own) >= 8
