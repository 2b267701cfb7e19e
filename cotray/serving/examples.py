"""Questions that the endpoint offers: of the made-up world, whose students read no words of others."""

from __future__ import annotations

from cotray.config.data import DataConfig
from cotray.records import QAPair
from cotray.seeds import seeded
from cotray.serving.schema import Example, GroundedRationale
from cotray.world.questions import Question, rows

NUM_EXAMPLES = 6
"""Shared evenly among the formats that are asked."""


def examples_of(data: DataConfig) -> list[Example]:
    """Test questions of the world, always the same ones; none of other data."""
    if not data.is_world:
        return []
    by_task: dict[str, list[QAPair]] = {task: [] for task in data.world.tasks}
    for row in rows(data.world, dev_fraction=data.dev_fraction, test_fraction=data.test_fraction):
        if row["split"] == "test":
            by_task[row["task"]].append(QAPair.from_row(row))
    random_ = seeded(data.world.seed, "examples")
    share = NUM_EXAMPLES // len(by_task)
    return [
        _example(pair, Question.of(pair.id, data.world))
        for pairs in by_task.values()
        for pair in random_.sample(pairs, min(share, len(pairs)))
    ]


def _example(pair: QAPair, question: Question) -> Example:
    return Example(
        question=pair.question,
        task=pair.task,
        choices=list(pair.choices),
        rationales=[
            GroundedRationale(answer=answer, rationale=question.grounded(answer))
            for answer in pair.choices or question.answers
        ],
    )
