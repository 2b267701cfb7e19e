"""Raw rows -> QAPair: cotray's own columns and the layouts of StrategyQA, CREAK, CommonsenseQA and QASC.

A layout only renames: it maps a raw row to cotray's own columns, and one function validates those.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast, get_args

from cotray.config import DataConfig
from cotray.data.columns import Raw, UnusableRow, parsed, present, text_of, texts_of
from cotray.records import BINARY_CHOICES, QAPair, Split, Task, normalized
from cotray.seeds import digest

MAX_CHOICES = 26
MAX_ID_CHARS = 200
TRUTHS = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}
SPLITS: dict[str, Split] = {
    "train": "train",
    "dev": "dev",
    "val": "dev",
    "valid": "dev",
    "validation": "dev",
    "test": "test",
}


def parse_pair(row: Raw, config: DataConfig, *, seed: int) -> QAPair:
    """One usable question, or UnusableRow."""
    layout = layout_of(row) if config.format == "auto" else config.format
    return _own_pair(LAYOUTS[layout](row), config, seed)


def layout_of(row: Raw) -> str:
    """Recognise the layout from the columns."""
    if "task" in row:
        return "cotray"
    if "sentence" in row or "ex_id" in row:
        return "creak"
    if "qid" in row:
        return "strategyqa"
    if "answerKey" in row or isinstance(row.get("question"), dict) or isinstance(row.get("choices"), dict):
        return "qasc" if "fact1" in row else "commonsenseqa"
    if "question" in row or {"id", "answer"} <= row.keys():
        return "cotray"
    raise UnusableRow("unknown layout: none of the columns question, sentence, answerKey; set data.format")


def _cotray(row: Raw) -> Raw:
    return row


def _strategyqa(row: Raw) -> Raw:
    return _shared(row) | {
        "id": present(row, "qid"),
        "task": "yes_no",
        "question": present(row, "question"),
        "answer": present(row, "answer"),
        "facts": row.get("facts"),
    }


def _creak(row: Raw) -> Raw:
    return _shared(row) | {
        "id": present(row, "ex_id"),
        "task": "true_false",
        "question": present(row, "sentence"),
        "answer": present(row, "label"),
        "reference_rationale": row.get("explanation"),
    }


def _commonsenseqa(row: Raw) -> Raw:
    """Choices are {label: [...], text: [...]} or [{label, text}], beside the question or inside it."""
    question = present(row, "question")
    inner = question if isinstance(question, dict) else row
    labels, texts = _labelled(present(inner, "choices"))
    key = normalized(text_of(present(row, "answerKey"), "answerKey"))
    if key not in labels:
        raise UnusableRow("no answer among the choices")
    return _shared(row) | {
        "id": present(row, "id"),
        "task": "multiple_choice",
        "question": present(question, "stem") if isinstance(question, dict) else question,
        "choices": texts,
        "answer": texts[labels.index(key)],
    }


def _qasc(row: Raw) -> Raw:
    facts = [row[name] for name in ("fact1", "fact2") if row.get(name) is not None]
    return _commonsenseqa(row) | {"facts": facts}


def _shared(row: Raw) -> Raw:
    return {"split": row.get("split")}


LAYOUTS: dict[str, Callable[[Raw], Raw]] = {
    "cotray": _cotray,
    "strategyqa": _strategyqa,
    "creak": _creak,
    "commonsenseqa": _commonsenseqa,
    "qasc": _qasc,
}


def _labelled(choices: Any) -> tuple[list[str], list[str]]:
    choices = parsed(choices, "choices")
    try:
        if isinstance(choices, dict):
            labelled = list(zip(choices["label"], choices["text"], strict=True))
        else:
            labelled = [(choice["label"], choice["text"]) for choice in choices]
    except (TypeError, KeyError, ValueError):
        raise UnusableRow("choices are not labels and texts") from None
    labels = [normalized(text_of(label, "choices")) for label, _ in labelled]
    if len(set(labels)) < len(labels):
        raise UnusableRow("duplicate labels of choices")
    return labels, [text_of(text, "choices") for _, text in labelled]


def _own_pair(row: Raw, config: DataConfig, seed: int) -> QAPair:
    record_id = text_of(present(row, "id"), "id")
    if len(record_id) > MAX_ID_CHARS:
        raise UnusableRow(f"id is longer than {MAX_ID_CHARS} characters")
    question = text_of(present(row, "question"), "question", kinds=(str,))
    own_choices = texts_of(row.get("choices"), "choices")
    answer = present(row, "answer")
    task = _task(row.get("task"), own_choices, answer)
    choices = _choices(task, own_choices)
    if len(question) + sum(map(len, choices)) > config.max_question_chars:
        raise UnusableRow("question longer than data.max_question_chars, choices included")
    return QAPair(
        id=record_id,
        task=task,
        question=question,
        choices=choices,
        answer=_answer(answer, task, choices, own_choices),
        split=_split(row.get("split"), record_id, config, seed),
        reference_rationale=text_of(row.get("reference_rationale") or "", "reference_rationale", empty=True),
        facts=tuple(fact for fact in texts_of(row.get("facts"), "facts", empty=True) if fact),
    )


def _task(task: Any, choices: Sequence[str], answer: Any) -> Task:
    """The task named, or the one that the choices or else the answer show."""
    if task is not None and task != "":
        if task not in get_args(Task):
            raise UnusableRow("unknown task")
        return cast(Task, task)
    names = {normalized(choice) for choice in choices}
    for binary, both in BINARY_CHOICES.items():
        if names == set(both):
            return cast(Task, binary)
    if choices:
        return "multiple_choice"
    if isinstance(answer, bool):
        return "yes_no"
    text = normalized(text_of(answer, "answer"))
    if text in ("0", "1"):
        raise UnusableRow("answer 0 or 1 without choices may mean anything; add the column 'task'")
    for binary, both in BINARY_CHOICES.items():
        if text in both:
            return cast(Task, binary)
    return "open"


def _choices(task: Task, choices: tuple[str, ...]) -> tuple[str, ...]:
    if task == "open":
        if choices:
            raise UnusableRow("an open question has choices")
        return ()
    names = [normalized(choice) for choice in choices]
    if task in BINARY_CHOICES:
        if choices and set(names) != set(BINARY_CHOICES[task]):
            raise UnusableRow(f"choices of a {task} question are not {' and '.join(BINARY_CHOICES[task])}")
        return BINARY_CHOICES[task]
    if not choices:
        raise UnusableRow("missing column 'choices'")
    if len(choices) == 1:
        raise UnusableRow("one choice only")
    if len(set(names)) < len(names):
        raise UnusableRow("duplicate choices")
    if len(choices) > MAX_CHOICES:
        raise UnusableRow(f"more than {MAX_CHOICES} choices")
    return choices


def _answer(value: Any, task: Task, choices: tuple[str, ...], own_choices: tuple[str, ...]) -> str:
    """The one choice that `value` means: as its text, as a truth value, or as an index."""
    if task == "open":
        return text_of(value, "answer")
    if isinstance(value, bool):
        if task not in BINARY_CHOICES:
            raise UnusableRow("no answer among the choices")
        return choices[0] if value else choices[1]
    meanings = _meanings(value, task, choices, own_choices)
    if not meanings:
        raise UnusableRow("no answer among the choices")
    if len(meanings) > 1:
        raise UnusableRow("answer is both an index and a value; write it as the text of a choice")
    return meanings.pop()


def _meanings(value: Any, task: Task, choices: tuple[str, ...], own_choices: tuple[str, ...]) -> set[str]:
    """SCOTT writes 1 for yes and true, and the index of a choice in its data: these may contradict."""
    text = normalized(text_of(value, "answer"))
    named = {normalized(choice): choice for choice in choices}
    meanings = {named[text]} if text in named else set()
    if isinstance(value, str) and meanings:
        return meanings
    if task in BINARY_CHOICES and text in TRUTHS:
        meanings.add(choices[0] if TRUTHS[text] else choices[1])
    if text.isdecimal() and len(text) <= 2 and int(text) < len(own_choices):
        meanings.add(named[normalized(own_choices[int(text)])])
    return meanings


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
