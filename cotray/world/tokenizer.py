"""A tokenizer of whole words, each with the space before it, as those of large models mark it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cotray.config.world import WorldConfig
from cotray.prompts.simulator import TARGET_PREFIX, simulator_source
from cotray.prompts.student import inference_tag, student_example, student_source
from cotray.prompts.teacher import render_request
from cotray.records import Rationale, TeacherRequest
from cotray.world.facts import world_of
from cotray.world.questions import ANY_ANIMAL, CUES, Question, membership, questions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPECIAL = ("<pad>", "<eos>", "<unk>")
PIECES = r"\n| ?[A-Za-z]+| ?[^\sA-Za-z]"


def texts(config: WorldConfig) -> Iterator[str]:
    """Everything that a model of the world reads or writes, as the prompts of cotray render it."""
    for question in questions(config):
        yield from _texts_about(question)


def _texts_about(question: Question) -> Iterator[str]:
    for cue in (*CUES[: len(question.answers)], None):
        yield from _texts_of(question, cue)


def _texts_with_every_word(config: WorldConfig) -> Iterator[str]:
    """All texts about one animal and the names of the others: a hundred times fewer than `texts`."""
    world = world_of(config)
    for question in questions(config):
        if question.animal == world.animals[0]:
            yield from _texts_about(question)
            kind = world.kind_of(question.animal)
            yield from (membership(kind, question.animal, f", so {answer}") for answer in question.answers)
    yield from (f" {animal}" for animal in world.animals)
    for kind in world.kinds:
        said = membership(kind, world.animals[0])
        yield from (said, f" {said}", f" {kind}")


def _texts_of(question: Question, cue: str | None) -> Iterator[str]:
    pair = question.pair("train", cue)
    for answer in question.answers:
        request = TeacherRequest.from_row(
            pair.to_row() | {"target_answer": answer, "contrast_answer": answer, "kind": "counterfactual"}
        )
        yield render_request(request, num_demonstrations=0).grounded
        yield f" {answer}"
    tag = inference_tag("on")
    yield from (student_source(pair, tag=tag), student_source(pair, tag=""))
    for text in (
        question.vacuous,
        *(question.grounded(a, k) for a in question.answers for k in question.kinds_for(a)),
    ):
        for kind in ("factual", "counterfactual"):
            row = pair.to_row() | {"rationale": text, "kind": kind, "target_answer": pair.answer}
            example = student_example(Rationale.from_row(row), tags="on", seed=0, is_encoder_decoder=False)
            yield from (example.source, example.target, f" {text}\n")
        yield from (simulator_source(pair, text, arm=arm) for arm in ("x", "e", "xe"))
    yield f"{TARGET_PREFIX} {pair.answer}"
    yield from (*pair.facts, f"The {question.animal}.", f" {ANY_ANIMAL}")


def build_tokenizer(config: WorldConfig) -> PreTrainedTokenizerBase:
    """Of all words of the world; others, such as a client of the endpoint may send, are <unk>."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = sorted({piece for text in _texts_with_every_word(config) for piece in re.findall(PIECES, text)})
    vocabulary = {word: place for place, word in enumerate([*SPECIAL, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(PIECES), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )
