"""Rationale -> Assessment: every measure that `assessing.measures` names, on one replica."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from cotray.config.assessing import AssessingConfig
from cotray.quality.answer_candidates import AnswerCandidates
from cotray.quality.qa_model import QAModel
from cotray.quality.qags import QagsScorer
from cotray.quality.quals import QualsScorer, facts_beside, source_text, supporting_facts
from cotray.quality.surface import surface
from cotray.records import Assessment, QAPair, Rationale, StudentAnswer
from cotray.scoring.simulator import Simulator
from cotray.seeds import seeded


class Assessor:
    def __init__(self, config: AssessingConfig, *, other_facts: OtherFacts) -> None:
        self.measures, self.other_facts = set(config.measures), other_facts
        self.quals = self.qags = self.simulator = None
        # Before the model, which takes minutes to load: spaCy may not be installed.
        candidates = AnswerCandidates() if "qags" in self.measures else None
        model: Any = None
        if self.measures & {"quals", "qags"}:
            model = QAModel(
                config.model,
                revision=config.revision,
                dtype=config.dtype,
                num_demonstrations=config.num_demonstrations,
            )
        if candidates is not None:
            self.qags = QagsScorer(model, find_candidates=candidates, diversity=config.diversity)
        if "quals" in self.measures:
            self.quals = QualsScorer(
                model,
                num_groups=config.num_groups,
                strength=config.diversity,
                max_pairs=config.max_pairs,
                max_new_tokens=config.max_new_tokens,
            )
        if "simulation" in self.measures:
            self.simulator = Simulator(config.model, mode="prompted", revision=config.revision)

    def assess(self, rationales: Sequence[Rationale]) -> list[Assessment]:
        scores: list[dict[str, Any]] = [{} for _ in rationales]
        if "surface" in self.measures:
            scores = [asdict(surface(rationale)) for rationale in rationales]
        if self.quals is not None:
            others = [self.other_facts(rationale) for rationale in rationales]
            for score, parts in zip(scores, self.quals.score(rationales, others), strict=True):
                score |= asdict(parts)
        if self.qags is not None:
            texts = [rationale.rationale for rationale in rationales]
            for score, parts in zip(scores, self.qags.score(texts, fact_sources(rationales)), strict=True):
                score |= asdict(parts)
        if self.simulator is not None:
            asked = [StudentAnswer.from_row(rationale.to_row()) for rationale in rationales]
            for score, said in zip(scores, self.simulator.simulate(asked), strict=True):
                score |= {"sim_x": said.sim_x, "sim_e": said.sim_e, "sim_xe": said.sim_xe}
        return [
            Assessment.from_row(rationale.to_row() | score)
            for rationale, score in zip(rationales, scores, strict=True)
        ]


def fact_sources(rationales: Sequence[Rationale]) -> list[str]:
    """Question, answer and facts of each; "" where there are no facts beside it."""
    facts = [facts_beside(rationale) for rationale in rationales]
    return [source_text(r, own) if own else "" for r, own in zip(rationales, facts, strict=True)]


class OtherFacts:
    """The facts of another question for each question, drawn by id: a control for QUALS."""

    def __init__(self, pool: Sequence[QAPair], *, seed: int) -> None:
        """`pool`: questions to draw from; the same for every replica and every batch."""
        facts = {pair.id: supporting_facts(pair) for pair in pool}
        self.facts: Mapping[str, tuple[str, ...]] = {id_: own for id_, own in sorted(facts.items()) if own}
        self.seed = seed

    def __call__(self, pair: QAPair) -> tuple[str, ...]:
        """() where no other question has facts."""
        others = [id_ for id_ in self.facts if id_ != pair.id]
        return self.facts[seeded(self.seed, pair.id, "other facts").choice(others)] if others else ()
