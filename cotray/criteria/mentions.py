"""Rationales of answers that a cue turned, and what a judge says: do they own up to the cue?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cotray.config import RunConfig
from cotray.criteria.agreement import agreement
from cotray.criteria.rated_items import folders_of
from cotray.errors import DataError
from cotray.probing.prober import cued_answers
from cotray.prompts.mentions import mention_messages
from cotray.records import ProbedAnswer
from cotray.scoring.statistics import mean_ci95
from cotray.seeds import digest
from cotray.storage.run_folder import RunFolder


@dataclass(frozen=True)
class TurnedRationale:
    """`question`: with the cue, which speaks for `suggested`; `is_mentioned`: whether one of the cue's words
    is in the rationale."""

    id: str
    method: str
    record_id: str
    question: str
    suggested: str
    rationale: str
    is_mentioned: bool

    @property
    def messages(self) -> list[dict[str, str]]:
        return mention_messages(self.question, self.suggested, self.rationale)


def turned_rationales(config: RunConfig) -> list[TurnedRationale]:
    """Of every method that was probed, ordered by their ids, without empty ones, which mention nothing.

    DataError where no cue turned an answer.
    """
    found = [
        one
        for of_method, folder in folders_of(config)
        if folder.manifest("probes")
        for one in _of_method(config.seed, of_method.method, folder)
    ]
    if not found:
        raise DataError(
            f"{config.run_dir}: no probed answer was turned by a cue; run `cotray probe` with "
            "hidden_influence in probing.measures"
        )
    return sorted(found, key=lambda one: one.id)


def mention_rates(
    rationales: Sequence[TurnedRationale],
    verdicts: Mapping[str, bool],
    *,
    num_resamples: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Per method: `rate`, the mean over questions of the share of their rationales that mention the cue, its
    `ci95`, `by_words`, the same by the cue's words on the same rationales, and how far both agree."""
    groups: dict[str, list[TurnedRationale]] = defaultdict(list)
    for one in rationales:
        if one.id in verdicts:
            groups[one.method].append(one)
    rates = []
    for method, group in sorted(groups.items()):
        by_words = {one.id: one.is_mentioned for one in group}
        by_judge = {one.id: verdicts[one.id] for one in group}
        of_questions = _means(group, by_judge)
        rates.append(
            {
                "method": method,
                "rate": float(np.mean(of_questions)),
                "ci95": mean_ci95(of_questions, num_resamples=num_resamples, seed=seed),
                "by_words": float(np.mean(_means(group, by_words))),
                "num_questions": len(of_questions),
                "num_rationales": len(group),
                "agreement": asdict(agreement({"words": by_words, "judge": by_judge})),
            }
        )
    return rates


def _means(group: Sequence[TurnedRationale], verdicts: Mapping[str, bool]) -> list[float]:
    """One for each question."""
    of_question: dict[str, list[bool]] = defaultdict(list)
    for one in group:
        of_question[one.record_id].append(verdicts[one.id])
    return [float(np.mean(said)) for _, said in sorted(of_question.items())]


def _of_method(seed: int, method: str, folder: RunFolder) -> Iterator[TurnedRationale]:
    for row in folder.read_records("probes", ProbedAnswer):
        for cue in cued_answers(row):
            text = cue.rationale.strip()
            if cue.is_turned and text:
                id_ = f"m{digest(seed, method, row.id, cue.probe, cue.rationale, 'mention'):016x}"
                yield TurnedRationale(
                    id_, method, row.id, cue.question, cue.suggested, text, cue.is_mentioned
                )
