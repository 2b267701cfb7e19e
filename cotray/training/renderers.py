"""Rows of a stage -> what a model learns from each, as text. Renderers travel to the workers that tokenize.

Each row gives the examples that stand or fall together: if one is too long, none is learned from.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from cotray.prompts.qa_pairs import QuestionAnswer, pair_example
from cotray.prompts.simulator import simulator_example
from cotray.prompts.student import Tags, rationale_span, student_example
from cotray.records import PassagePair, Rationale, StudentAnswer, TrainExample
from cotray.seeds import seeded

Key = tuple[str, str, int]
"""(kind, id, sample): one rationale of a run, whose ids are unique over all splits."""


class Renderer(Protocol):
    @property
    def columns(self) -> Sequence[str]:
        """Of the source, that are read; () = all."""
        ...

    def __call__(self, rows: Sequence[Any], *, is_encoder_decoder: bool) -> Iterator[list[TrainExample]]: ...


def key_of(row: Rationale) -> Key:
    return row.kind, row.id, row.sample


def weights_of(rows: Sequence[Rationale], weights: Sequence[float]) -> dict[Key, float]:
    """Of the rows whose loss does not count once."""
    return {key_of(row): weight for row, weight in zip(rows, weights, strict=True) if weight != 1}


@dataclass(frozen=True)
class StudentRenderer:
    """Rationales of the train split, and the factual ones of dev, for the dev loss."""

    columns = ("id", "task", "question", "choices", "answer", "split", "kind", "target_answer")
    columns += ("rationale", "sample", "error")

    tags: Tags
    seed: int
    kinds: Collection[str]
    weights: Mapping[Key, float] = field(default_factory=dict)
    """Of those rationales whose loss does not count once; 0 leaves one out."""
    rationales: Mapping[Key, str] | None = None
    """Read in place of the rows' own."""
    only: Collection[Key] | None = None
    """These factual rationales, and of them the text before the answer phrase alone is learned (ConSeq)."""

    def __call__(
        self, rows: Sequence[Rationale], *, is_encoder_decoder: bool
    ) -> Iterator[list[TrainExample]]:
        for row in rows:
            key, weight = key_of(row), self.weights.get(key_of(row), 1.0)
            wanted = self.kinds if row.split == "train" else {"factual"} if row.split == "dev" else ()
            if row.error or weight <= 0 or row.kind not in wanted or self._leaves_out(row):
                continue
            if self.rationales is not None:
                row = replace(row, rationale=self.rationales[key])
            example = student_example(
                row, tags=self.tags, seed=self.seed, is_encoder_decoder=is_encoder_decoder
            )
            if self.only is not None and row.kind == "factual":
                example = rationale_only(example)
            yield [replace(example, weight=weight, split=row.split)]

    def _leaves_out(self, row: Rationale) -> bool:
        is_listed = self.only is None or row.kind == "counterfactual" or key_of(row) in self.only
        return not is_listed or (self.only is not None and row.split == "dev")


@dataclass(frozen=True)
class RejectedRenderer:
    """What a student wrote and is to unlearn, one sample of a question (ConSeq)."""

    columns = StudentRenderer.columns

    tags: Tags
    seed: int
    only: Collection[Key]

    def __call__(
        self, rows: Sequence[Rationale], *, is_encoder_decoder: bool
    ) -> Iterator[list[TrainExample]]:
        for row in rows:
            if key_of(row) in self.only:
                example = student_example(
                    row, tags=self.tags, seed=self.seed, is_encoder_decoder=is_encoder_decoder
                )
                yield [replace(rationale_only(example), kind="rejected")]


@dataclass(frozen=True)
class SimulatorRenderer:
    """Each answer with question and rationale, and in the train split also with one of the two alone."""

    columns = ()

    def __call__(
        self, rows: Sequence[StudentAnswer], *, is_encoder_decoder: bool
    ) -> Iterator[list[TrainExample]]:
        for row in rows:
            if row.split == "test":
                continue
            both = simulator_example(row, drop_x=False, drop_e=False)
            examples = [both]
            if row.split == "train":
                examples.append(replace(simulator_example(row, drop_x=False, drop_e=True), kind="x"))
                examples.append(replace(simulator_example(row, drop_x=True, drop_e=False), kind="e"))
            yield [replace(example, split=row.split) for example in examples]


@dataclass(frozen=True)
class PairRenderer:
    """A passage's question with one of its answers, for a model that writes such pairs."""

    columns = ()

    def __call__(
        self, rows: Sequence[PassagePair], *, is_encoder_decoder: bool
    ) -> Iterator[list[TrainExample]]:
        for row in rows:
            example = pair_example(row.id, row.passage, QuestionAnswer(row.question, row.answer))
            yield [replace(example, split=row.split)]


def rationale_only(example: TrainExample) -> TrainExample:
    """The same text with a loss on its rationale alone."""
    start, stop = rationale_span(example)
    return replace(example, supervise_from=start, supervise_to=stop)


def shuffled_rationales(rows: Sequence[Rationale], *, seed: int) -> dict[Key, str]:
    """For each row the rationale of another one of its split and kind; their order does not matter."""
    groups: dict[tuple[str, str], list[Rationale]] = {}
    for row in sorted(rows, key=key_of):
        groups.setdefault((row.split, row.kind), []).append(row)
    shuffled = {}
    for name, group in groups.items():
        order = seeded(seed, *name, "shuffled rationales").sample(range(len(group)), len(group))
        # A step along one circle through all: where there are two or more, nobody keeps its own.
        for place, position in enumerate(order):
            shuffled[key_of(group[position])] = group[order[place - 1]].rationale
    return shuffled
