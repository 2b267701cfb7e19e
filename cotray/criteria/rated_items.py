"""Which rationales are rated: the same test questions for every method, teachers' and students' alike."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from cotray.config import RunConfig
from cotray.errors import DataError
from cotray.prompts.criteria import judge_messages
from cotray.records import Rationale, Record, StudentAnswer
from cotray.seeds import digest
from cotray.storage.run_folder import RunFolder

Writer = Literal["teacher", "student"]


@dataclass(frozen=True)
class Source(Record):
    """Where a rationale comes from: what raters must not know.

    `method` of a teacher is how it decoded, because a student's counterfactuals change nothing about it.
    """

    record_id: str
    writer: Writer
    method: str


@dataclass(frozen=True)
class Item:
    """What is rated: an answer and its rationale; methods that wrote the same text share one item."""

    id: str
    question: str
    choices: tuple[str, ...]
    answer: str
    rationale: str
    sources: tuple[Source, ...]

    @property
    def messages(self) -> list[dict[str, str]]:
        """What a judge is asked about it."""
        return judge_messages(self.question, self.choices, self.answer, self.rationale)


def draw_items(config: RunConfig, *, num_rationales: int) -> list[Item]:
    """Up to `num_rationales` factual rationales of each method's teacher and student, ordered by item id.

    Questions are drawn by (seed, id), so that methods share them; failed and empty rationales are not rated.
    DataError where the run folder has no rationale of a test question.
    """
    items: dict[str, Item] = {}
    for rows in _groups(config):
        for item in heapq.nsmallest(num_rationales, rows, key=lambda item: _turn(config.seed, item)):
            same = items.setdefault(item.id, item)
            if same is not item:
                items[item.id] = replace(same, sources=same.sources + item.sources)
    if not items:
        raise DataError(
            f"{config.run_dir}: no rationale of a test question; run `cotray generate` or "
            "`cotray run`, with data.test_fraction above 0"
        )
    return sorted(items.values(), key=lambda item: item.id)


def _turn(seed: int, item: Item) -> int:
    return digest(seed, item.sources[0].record_id, "criteria")


def _groups(config: RunConfig) -> Iterator[Iterator[Item]]:
    """The rationales of one writer and method at a time; teachers that decode alike are one."""
    seen = set()
    for one, folder in folders_of(config):
        if folder.manifest("rationales") and one.decoding_method not in seen:
            seen.add(one.decoding_method)
            yield _teacher_items(one, folder)
        if folder.manifest("answers"):
            yield _student_items(one, folder)


def folders_of(config: RunConfig) -> list[tuple[RunConfig, RunFolder]]:
    """The run of each method, with its own configuration."""
    root = RunFolder(config.run_dir)
    if root.manifest("rationales"):
        return [(config, root)]
    return [(config.for_method(method), _folder_of(root, method)) for method in config.methods]


def _folder_of(root: RunFolder, method: str) -> RunFolder:
    """Below the folder of a run of several methods, or of a sweep over them: there the first seed's."""
    seeds = root.subfolders(f"method={method}")
    return RunFolder(root.uri(f"method={method}/{seeds[0]}" if seeds else method))


def _teacher_items(config: RunConfig, folder: RunFolder) -> Iterator[Item]:
    for row in folder.read_records("rationales", Rationale):
        if row.split == "test" and row.kind == "factual" and row.sample == 0 and not row.error:
            source = Source(row.id, "teacher", config.decoding_method)
            yield from _item(config.seed, row, row.target_answer, row.rationale, source)


def _student_items(config: RunConfig, folder: RunFolder) -> Iterator[Item]:
    for row in folder.read_records("answers", StudentAnswer):
        if row.split == "test" and row.kind == "factual":
            source = Source(row.id, "student", config.method)
            yield from _item(config.seed, row, row.student_answer, row.rationale, source)


def _item(
    seed: int, row: Rationale | StudentAnswer, answer: str, rationale: str, source: Source
) -> Iterator[Item]:
    """One item, or none for an empty rationale. Its id tells nothing without the seed and the texts.

    It begins with a letter, because spreadsheets read digits such as 1234567890123e45 as a number.
    """
    if rationale.strip():
        id_ = f"i{digest(seed, row.question, *row.choices, answer, rationale.strip(), 'item'):016x}"
        yield Item(id_, row.question, row.choices, answer, rationale.strip(), (source,))
