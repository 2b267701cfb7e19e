"""QUALS beside QAGS: the same model, the same texts and sources, one run.

The texts are what backs the answers of the questions read (StrategyQA's facts, CREAK's explanations), so that
no teacher is needed; the sources are question, answer and those same facts. Without a data set that has them,
the questions themselves stand in: the rates are still those of texts of that length.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cotray.config.assessing import AssessingConfig
from cotray.quality.answer_candidates import AnswerCandidates
from cotray.quality.qa_model import QAModel
from cotray.quality.qags import QagsScorer
from cotray.quality.quals import QualsScorer, source_text, supporting_facts
from cotray.records import Rationale, TeacherRequest


def bench_assess(*, model: str, requests: Sequence[TeacherRequest]) -> dict[str, Any]:
    """Print where the time goes and return the figures."""
    rationales = [_rationale(request) for request in requests]
    texts = [rationale.rationale for rationale in rationales]
    sources = [source_text(r, supporting_facts(r) or (r.question,)) for r in rationales]
    config = AssessingConfig()
    clock, candidates = Clock(), AnswerCandidates()
    qa = QAModel(model, num_demonstrations=config.num_demonstrations)
    quals = _run_quals(qa, config, texts, sources, clock)
    qags = _run_qags(qa, candidates, config, texts, sources, clock)
    seconds = {
        name: sum(s for part, s in clock.seconds.items() if part.startswith(name))
        for name in ("quals", "qags")
    }
    figures: dict[str, Any] = {
        "num_rationales": len(texts),
        "quals_speedup": seconds["qags"] / seconds["quals"],
        "rationales_per_s": len(texts) / seconds["quals"],
        "qags_rationales_per_s": len(texts) / seconds["qags"],
        "quals_scored": sum(value is not None for value in quals) / len(texts),
        "qags_scored": sum(value is not None for value in qags) / len(texts),
    }
    figures |= {f"{name}_s": value for name, value in clock.seconds.items()}
    for name, value in figures.items():
        print(f"{name}: {value:.3f}")
    return figures


class Clock:
    """Seconds by part."""

    def __init__(self) -> None:
        self.seconds = Counter[str]()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - started  # type: ignore[assignment]


def _run_quals(
    qa: QAModel, config: AssessingConfig, texts: Sequence[str], sources: Sequence[str], clock: Clock
) -> list[float | None]:
    scorer = QualsScorer(
        qa,
        num_groups=config.num_groups,
        strength=config.diversity,
        max_pairs=config.max_pairs,
        max_new_tokens=config.max_new_tokens,
    )
    with clock("quals_pairs"):
        pairs = scorer.pairs(texts)
    with clock("quals_scores"):
        return [own[0] for own in scorer.against(texts, pairs, [[source] for source in sources])]


def _run_qags(
    qa: QAModel,
    candidates: AnswerCandidates,
    config: AssessingConfig,
    texts: Sequence[str],
    sources: Sequence[str],
    clock: Clock,
) -> list[float | None]:
    def timed(text: str, *, most: int) -> list[str]:
        with clock("qags_candidates"):
            return candidates(text, most=most)

    scorer = QagsScorer(qa, find_candidates=timed, diversity=config.diversity)
    with clock("qags_questions"):
        asked = scorer.questions(texts)
    clock.seconds["qags_questions"] -= clock.seconds["qags_candidates"]
    with clock("qags_filter"):
        kept = scorer.consistent(texts, asked)
    with clock("qags_answers"):
        return [parts.qags for parts in scorer.compare(kept, sources)]


def _rationale(request: TeacherRequest) -> Rationale:
    text = " ".join(supporting_facts(request)) or request.question
    return Rationale.from_row(request.to_row() | {"rationale": text})
