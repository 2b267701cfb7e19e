"""A chat client's message becomes the very tokens that the student was trained on."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from cotray.models.loading import load_tokenizer
from cotray.models.random_models import byte_tokenizer
from cotray.prompts.chat_template import chat_template
from cotray.prompts.student import student_source, trained_prompt
from cotray.records import QAPair

PAIRS = (
    QAPair("1", "yes_no", "Can a heron swim?", ("yes", "no"), "no"),
    QAPair("2", "multiple_choice", "Why does\nit rain?", ("clouds (grey)", "wind", "it's"), "wind"),
    QAPair("3", "open", "  Who wrote “Emma”? {{ x }} <eos ", (), "Austen"),
    QAPair("4", "number", "How many legs have 3 dogs?", (), "12"),
)


def words_of_llama(scheme: Literal["always", "first"] | None) -> PreTrainedTokenizerFast:
    """As SentencePiece's of Llama: <s> before every text, then the mark of a space before its first word.

    None: the older form, which puts the mark there before words are split.
    """
    text = "▁" + "".join(student_source(pair, tag="[factual]") for pair in PAIRS)
    pieces = sorted(set(text))
    vocabulary = {token: place for place, token in enumerate(["<unk>", "<s>", "</s>", *pieces])}
    tokenizer: Any = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    if scheme:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    else:
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(Regex(" "), "▁")]
        )
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def with_eos_in_front() -> PreTrainedTokenizerFast:
    """As that of OPT."""
    tokenizer: Any = byte_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<eos> $A", special_tokens=[("<eos>", 1)]
    )
    return tokenizer


TOKENIZERS = {
    "bytes": byte_tokenizer,
    "smollm2": lambda: load_tokenizer("embedded:smollm2-135m-instruct"),
    "llama": lambda: words_of_llama("first"),
    "llama, always": lambda: words_of_llama("always"),
    "llama, older": lambda: words_of_llama(None),
    "opt": with_eos_in_front,
}


@pytest.mark.parametrize("tags", ["on", "off"])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_chat_has_the_tokens_of_the_students_own_prompt(name: str, tags: Literal["on", "off"]) -> None:
    tokenizer: Any = TOKENIZERS[name]()
    prompt = trained_prompt(tags)
    template = chat_template(tokenizer, prompt.tag)
    for pair in PAIRS:
        chat = [{"role": "user", "content": student_source(pair, tag="")}]
        found = tokenizer.apply_chat_template(chat, chat_template=template, return_dict=False)
        assert found == tokenizer(prompt.source(pair)).input_ids


def rendered(*messages: tuple[str, str | list], **options) -> str:
    tokenizer: Any = byte_tokenizer()
    chat = [{"role": role, "content": content} for role, content in messages]
    template = chat_template(tokenizer, "[factual]")
    return tokenizer.apply_chat_template(chat, chat_template=template, tokenize=False, **options)


def test_choices_on_lines_of_their_own_are_those_on_one_line() -> None:
    expected = "[factual] Which?\n(A) rain (B) snow (C) no\n"
    assert rendered(("user", "Which?\n(A) rain\n(B) snow\n(C) no")) == expected
    assert rendered(("user", "Which?\n(A) rain (B) snow (C) no\n")) == expected


def test_only_the_last_question_counts_and_no_system_prompt() -> None:
    chat = (("system", "You are helpful."), ("user", "Old?"), ("assistant", "Yes."), ("user", "New?"))
    assert rendered(*chat) == "[factual] New?\n"


def test_parts_of_a_message_are_joined_by_line_breaks() -> None:
    parts = [{"type": "text", "text": "Which?"}, {"type": "text", "text": "(A) x (B) y"}]
    assert rendered(("user", parts)) == "[factual] Which?\n(A) x (B) y\n"


def test_an_answer_ends_as_in_training_and_a_begun_one_goes_on() -> None:
    chat = (("user", "New?"), ("assistant", "R. So the answer is"))
    assert rendered(*chat) == "[factual] New?\nR. So the answer is<eos>"
    assert rendered(*chat, continue_final_message=True) == "[factual] New?\nR. So the answer is"


def test_without_a_template_that_gives_the_tokens_of_training_there_is_none() -> None:
    tokenizer: Any = byte_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    assert chat_template(tokenizer, "[factual]") is None
