"""A raw row -> QAPair: what its columns hold, validated and in one form.

What a column means is said by the configuration or by the layout of a published dataset (layouts.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast, get_args

from cotray.config import DataConfig
from cotray.data.answers import Choices, chosen, written
from cotray.data.columns import Raw, UnusableRow, joined, parsed, text_of, texts_of
from cotray.data.file_formats import Row, Unreadable
from cotray.data.layouts import Mapping, mapping_of
from cotray.records import BINARY_CHOICES, FIXED_CHOICES, QAPair, Split, Task, normalized, number_in, task_of
from cotray.seeds import digest, seeded

MAX_CHOICES = 26
MAX_ID_CHARS = 200
SPLITS: dict[str, Split] = {
    "train": "train",
    "dev": "dev",
    "val": "dev",
    "valid": "dev",
    "validation": "dev",
    "test": "test",
}


class Understood(NamedTuple):
    """A question, and what had to be done to get it."""

    pair: QAPair
    layout: str
    has_made_id: bool
    has_merged_choices: bool


def parse_pair(row: Row, config: DataConfig, *, seed: int) -> QAPair:
    """One usable question, or UnusableRow."""
    return understand(row, config, seed=seed).pair


def understand(row: Row, config: DataConfig, *, seed: int) -> Understood:
    """The question of a row, or UnusableRow."""
    if isinstance(row, Unreadable):
        raise UnusableRow(row.reason)
    mapping = mapping_of(row, config)
    question = joined(_needed(mapping, row, "question"), "question", kinds=(str,))
    labels, texts = _choice_texts(mapping, row)
    answer = _needed(mapping, row, "answer")
    answer, texts = _named_label(answer, texts, mapping)
    task = _task(mapping.task or mapping.read(row, "task"), texts, answer)
    choices = _choices(task, texts, labels)
    record_id, has_made_id = _id(mapping, row, question, choices)
    if len(question) + sum(map(len, choices.named.values())) > config.max_question_chars:
        raise UnusableRow("question longer than data.max_question_chars, choices included")
    rationale, gold = _answer(answer, choices, mapping)
    order = list(choices.named.values())
    if mapping.shuffle_choices and task not in FIXED_CHOICES:
        seeded(seed, record_id, "choices").shuffle(order)
    reference = mapping.read(row, "rationale") or rationale
    facts = mapping.read(row, "facts")
    pair = QAPair(
        id=record_id,
        task=task,
        question=question,
        choices=tuple(order),
        answer=gold,
        split=_split(mapping.read(row, "split"), record_id, config, seed),
        reference_rationale=_rationale(reference),
        facts=tuple(fact for fact in texts_of(facts, "facts", empty=True) if fact),
    )
    return Understood(pair, mapping.name, has_made_id, len(choices.named) < len(texts))


def _needed(mapping: Mapping, row: Raw, part: str) -> Any:
    value = mapping.read(row, part)
    if value is None:
        column = getattr(mapping.config.columns, part) or getattr(mapping.layout.columns, part) or part
        raise UnusableRow(f"missing column '{column if isinstance(column, str) else ', '.join(column)}'")
    return value


def _rationale(value: Any) -> str:
    return joined(value, "rationale", empty=True) if value else ""


def _id(mapping: Mapping, row: Raw, question: str, choices: Choices) -> tuple[str, bool]:
    """The row's own id, or one that is made from its content; and whether it was made."""
    own = mapping.read(row, "id")
    if own is None:
        return f"{digest(0, question, *sorted(choices.named)):016x}", True
    record_id = joined(own, "id")
    if len(record_id) > MAX_ID_CHARS:
        raise UnusableRow(f"id is longer than {MAX_ID_CHARS} characters")
    return record_id, False


def _choice_texts(mapping: Mapping, row: Raw) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(labels, texts): the labels of the data, or none. An empty last choice is none."""
    try:
        value = mapping.read(row, "choices")
    except UnusableRow as error:
        raise UnusableRow(f"{error}; choices that all questions have are named in data.labels") from None
    if isinstance(value, str):
        value = parsed(value, "choices")
    if isinstance(value, dict) or (isinstance(value, list) and value and isinstance(value[0], dict)):
        return _labelled(value)
    is_several = not isinstance(mapping.config.columns.choices or mapping.layout.columns.choices, str | None)
    if is_several:  # a column for each, of which a question need not fill the last
        while value and (value[-1] is None or value[-1] == ""):
            value.pop()
    texts = texts_of(value, "choices")
    return (), _without_letters(texts)


def _without_letters(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Choices that carry their letters, as in "A)21", "B)25", without them."""
    for left, right in (("", ")"), ("(", ")"), ("", "."), ("", ":")):
        marks = [f"{left}{chr(97 + index)}{right}" for index in range(len(texts))]
        if len(texts) > 1 and all(
            text.casefold().startswith(mark) and len(text) > len(mark)
            for text, mark in zip(texts, marks, strict=True)
        ):
            return tuple(text[len(mark) :].strip() for text, mark in zip(texts, marks, strict=True))
    return texts


def _labelled(choices: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Choices as {label: [...], text: [...]} or as [{label, text}, ...]."""
    try:
        if isinstance(choices, dict):
            labelled = list(zip(choices["label"], choices["text"], strict=True))
        else:
            labelled = [(choice["label"], choice["text"]) for choice in choices]
    except (TypeError, KeyError, ValueError):
        raise UnusableRow("choices are not labels and texts") from None
    labels = tuple(normalized(text_of(label, "choices")) for label, _ in labelled)
    if len(set(labels)) < len(labels):
        raise UnusableRow("duplicate labels of choices")
    return labels, tuple(text_of(text, "choices") for _, text in labelled)


def _named_label(answer: Any, texts: tuple[str, ...], mapping: Mapping) -> tuple[Any, tuple[str, ...]]:
    """With `labels`, an integer answer is the name of that number, and the names are the choices."""
    if not mapping.labels:
        return answer, texts
    word = "" if isinstance(answer, bool | list) else text_of(answer, "answer")
    if normalized(word) in map(normalized, mapping.labels):
        return answer, texts or mapping.labels
    if word.isdecimal() and int(word[:3]) < len(mapping.labels):
        answer = mapping.labels[int(word)]
    elif word.lstrip("-").isdecimal():
        raise UnusableRow("no label has the number that is the answer")
    return answer, texts or mapping.labels


def _task(task: Any, choices: Sequence[str], answer: Any) -> Task:
    """The task named, or the one that the choices or else the answer show."""
    if task is not None and task != "":
        if task not in get_args(Task):
            raise UnusableRow("unknown task")
        return cast(Task, task)
    if choices:
        return task_of(choices)
    if isinstance(answer, bool):
        return "yes_no"
    text = normalized(text_of(answer, "answer"))
    if text in ("0", "1"):
        raise UnusableRow("answer 0 or 1 without choices may mean anything; set data.task")
    for binary, both in BINARY_CHOICES.items():
        if text in both:
            return cast(Task, binary)
    return "open"


def _choices(task: Task, texts: tuple[str, ...], labels: tuple[str, ...]) -> Choices:
    """Those of the task, or the row's own, of which each counts once."""
    named: dict[str, str] = {}
    for text in texts:
        named.setdefault(normalized(text), text)
    if task in ("open", "number") and texts:
        raise UnusableRow(f"{'an open question' if task == 'open' else 'a number'} has choices")
    if fixed := FIXED_CHOICES.get(task):
        if texts and set(named) != set(fixed):
            raise UnusableRow(f"choices of a {task} question are not {', '.join(fixed[:-1])} and {fixed[-1]}")
        return Choices(task, texts, labels, {choice: choice for choice in fixed})
    if task == "multiple_choice":
        if not texts:
            raise UnusableRow("missing column 'choices'")
        if len(named) == 1:
            raise UnusableRow("one choice only")
        if len(named) > MAX_CHOICES:
            raise UnusableRow(f"more than {MAX_CHOICES} choices")
    return Choices(task, texts, labels, named)


def _answer(value: Any, choices: Choices, mapping: Mapping) -> tuple[str, str]:
    """(what is written before the answer, the answer)"""
    if choices.named:
        return "", chosen(value, choices, mapping.answer_is)
    rationale, text = written(value, mapping.answer_in)
    if choices.task == "number":
        number = number_in(text)
        if number is None:
            raise UnusableRow("no number in the answer; set data.task to open")
        text = number
    return rationale, text


def _split(split: Any, record_id: str, config: DataConfig, seed: int) -> Split:
    """The row's own split, or one drawn by its id alone, whatever the other rows are."""
    if split is not None and split != "":
        if not isinstance(split, str) or normalized(split) not in SPLITS:
            raise UnusableRow("unknown split")
        return SPLITS[normalized(split)]
    drawn = digest(seed, record_id, "split") / 2**64
    if drawn < config.test_fraction:
        return "test"
    return "dev" if drawn < config.test_fraction + config.dev_fraction else "train"
