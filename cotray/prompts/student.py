"""What the student reads and writes: rendering and parsing side by side.

docs/explanation/method.md#student-sequences

source  "[factual] {question}\n(A) c1 (B) c2\n"            encoder input, or decoder-only prompt
target  "{rationale} So the answer is {answer}"            encoder-decoders repeat the tag in front
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from cotray.records import Kind, QAPair, Rationale, Task, TrainExample
from cotray.seeds import digest, seeded

ANSWER_PHRASE = " So the answer is"

Tags = Literal["on", "off", "shuffled"]


class StudentPrompt(Protocol):
    """How a question is put to a model, and how its text is read."""

    @property
    def forced(self) -> str:
        """What the decoder of an encoder-decoder starts with."""
        ...

    @property
    def ends_with_line(self) -> bool:
        """Whether the text ends at a line break; else with the sequence."""
        ...

    def source(self, pair: QAPair) -> str: ...

    def prefix(self, rationale: str, *, is_encoder_decoder: bool) -> str:
        """What follows the source up to and including "is"."""
        ...

    def parse(self, text: str) -> tuple[str, str]:
        """(rationale, answer as written)"""
        ...


@dataclass(frozen=True)
class TaggedPrompt:
    """Of a student that was trained on `student_example`s."""

    tag: str
    ends_with_line: bool = False

    @property
    def forced(self) -> str:
        return self.tag

    def source(self, pair: QAPair) -> str:
        return student_source(pair, tag=self.tag)

    def prefix(self, rationale: str, *, is_encoder_decoder: bool) -> str:
        return target_prefix(rationale, tag=self.tag, is_encoder_decoder=is_encoder_decoder)

    def parse(self, text: str) -> tuple[str, str]:
        return parse_student(text, tag=self.tag)


def trained_prompt(tags: Tags) -> TaggedPrompt:
    """For a student that was trained with `tags`."""
    return TaggedPrompt(inference_tag(tags))


def student_source(pair: QAPair, *, tag: str) -> str:
    """The question as the student sees it; choices are lettered, binary tasks show none."""
    question = f"{tag} {pair.question.strip()}" if tag else pair.question.strip()
    if pair.task != "multiple_choice":
        return question + "\n"
    lettered = " ".join(f"({chr(65 + index)}) {choice}" for index, choice in enumerate(pair.choices))
    return f"{question}\n{lettered}\n"


def target_prefix(rationale: str, *, tag: str, is_encoder_decoder: bool) -> str:
    """The target up to and including "is": what is forced when only the answer is asked for."""
    text = rationale.strip() + ANSWER_PHRASE
    return f"{tag} {text}" if tag and is_encoder_decoder else text


def tag_of(kind: Kind, tags: Tags, *, seed: int, record_id: str) -> str:
    """The tag an example carries; `shuffled` draws it by id, to test whether it is a shortcut."""
    if tags == "off":
        return ""
    if tags == "shuffled":
        return f"[{seeded(seed, record_id, kind, 'tag').choice(('factual', 'counterfactual'))}]"
    return f"[{kind}]"


def inference_tag(tags: Tags) -> str:
    """Every question is a factual one; shuffled tags are an ablation of training alone."""
    return tag_of("factual", "on" if tags == "shuffled" else tags, seed=0, record_id="")


def student_example(rationale: Rationale, *, tags: Tags, seed: int, is_encoder_decoder: bool) -> TrainExample:
    """Factual: every target token is learned. Counterfactual: the answer alone."""
    tag = tag_of(rationale.kind, tags, seed=seed, record_id=rationale.id)
    prefix = target_prefix(rationale.rationale, tag=tag, is_encoder_decoder=is_encoder_decoder)
    return TrainExample(
        id=rationale.id,
        kind=rationale.kind,
        source=student_source(rationale, tag=tag),
        target=f"{prefix} {rationale.target_answer}",
        supervise_from=len(prefix) if rationale.kind == "counterfactual" else 0,
    )


def student_prompt_version(tags: Tags) -> str:
    """Changes with anything in what a student reads and writes that is not question, rationale or answer."""
    kinds: tuple[Kind, ...] = get_args(Kind)
    probes = [
        Rationale("", task, "Q?", ("a", "b"), "a", kind=kind, target_answer="b", rationale="R.")
        for task in get_args(Task)
        for kind in kinds
    ]
    examples = [
        student_example(probe, tags=tags, seed=0, is_encoder_decoder=is_encoder_decoder)
        for probe in probes
        for is_encoder_decoder in (False, True)
    ]
    return f"{digest(0, *map(repr, examples)):016x}"


def rationale_span(example: TrainExample) -> tuple[int, int]:
    """Where in the target the rationale is: after the tag of encoder-decoders, before the answer phrase."""
    tag = re.match(r"\[(?:counter)?factual\] ", example.target)
    return tag.end() if tag else 0, example.target.rindex(ANSWER_PHRASE)


def parse_student(text: str, *, tag: str) -> tuple[str, str]:
    """Generated text -> (rationale, answer as written); the answer is "" where the phrase is missing.

    The last phrase counts: a rationale may contain it too.
    """
    text = text.strip().removeprefix(tag).strip()
    rationale, phrase, answer = text.rpartition(ANSWER_PHRASE.strip())
    if not phrase:
        return text, ""
    return rationale.strip(), answer.strip().rstrip(".")
