"""Raw rows -> passages with a question and an answer, which a model learns to write pairs from.

One question a row: `passage` or `context`, `question`, and `answer` or `answers`, as texts or as in the
Hugging Face layout of SQuAD (`{"text": [...]}`). Or SQuAD's own nested JSON, of which one row is the whole
file, an article or a paragraph.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from cotray.config import DataConfig
from cotray.data.columns import Raw, UnusableRow, parsed, present, text_of
from cotray.data.file_formats import Row, Unreadable
from cotray.data.readers import read_rows, row_text
from cotray.records import PassagePair, normalized
from cotray.storage.run_folder import DeadLetter

STAGE = "pairs"
LEVELS = ("data", "paragraphs", "qas")
"""Lists inside SQuAD's nested objects, from the file down to its questions."""
PASSAGE = ("passage", "context")
Passage = str | Unreadable
MISSING = Unreadable("missing column 'passage'")


def each_pair(path: str) -> Iterator[PassagePair | DeadLetter]:
    """Every distinct answer of every question at `path`, or why a row has none."""
    for origin, row in read_rows(DataConfig(path=path)):
        for place, (question, passage) in enumerate(_questions(row)):
            name = origin if question is row else f"{origin}/{place}"
            try:
                yield from _pairs(question, passage, name)
            except UnusableRow as error:
                yield DeadLetter(STAGE, name, str(error), row_text(question))


def _questions(
    row: Row, above: Passage = MISSING, levels: Sequence[str] = LEVELS
) -> Iterator[tuple[Row, Passage]]:
    """The questions of a nested object, each with the passage nearest to it; any other row is one itself.

    A passage is read once, however many questions are about it.
    """
    if isinstance(row, Unreadable):
        yield row, above
        return
    passage = _passage(row, above)
    level = next((name for name in levels if name in row), None)
    if level is None:
        yield row, passage
        return
    below = levels[levels.index(level) + 1 :]
    for part in row[level] if isinstance(row[level], list) else [row[level]]:
        if isinstance(part, dict):
            yield from _questions(part, passage, below)
        else:
            yield Unreadable(f"'{level}' is not a list of objects", str(part)[:4000]), passage


def _passage(row: Raw, above: Passage) -> Passage:
    """The row's own passage, or `above` where it has none."""
    column = next((name for name in PASSAGE if row.get(name) is not None), None)
    if column is None:
        return above
    try:
        return text_of(row[column], column, kinds=(str,))
    except UnusableRow as problem:
        return Unreadable(str(problem))


def _pairs(row: Row, passage: Passage, origin: str) -> Iterator[PassagePair]:
    if isinstance(row, Unreadable):
        raise UnusableRow(row.reason)
    if isinstance(passage, Unreadable):
        raise UnusableRow(passage.reason)
    question = text_of(present(row, "question"), "question", kinds=(str,))
    answers = {}
    for answer in _answers(row):
        answers.setdefault(normalized(answer), answer)
    for place, answer in enumerate(answers.values()):
        yield PassagePair(f"{origin}/{place}", passage, question, answer)


def _answers(row: Raw) -> list[str]:
    if row.get("answers") is None:
        return [text_of(present(row, "answer"), "answer")]
    value: Any = parsed(row["answers"], "answers")
    value = present(value, "text") if isinstance(value, dict) else value
    items = value if isinstance(value, list) else [value]
    if not items:
        raise UnusableRow("no answer")
    return [text_of(item.get("text") if isinstance(item, dict) else item, "answers") for item in items]
