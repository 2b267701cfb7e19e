"""Tokenizers as cotray uses them, whatever the model's own adds to a text; and what ends a text.

transformers is imported inside the functions.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from cotray.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def prepared(tokenizer: Any, name: str, *, is_encoder_decoder: bool) -> PreTrainedTokenizerBase:
    """A loaded tokenizer with a padding token, which for a decoder-only model puts no end behind a text, and
    which reads no special token out of a text.

    Raises ConfigError where it has no fast form, which gives the offsets of tokens, or no end of sequence.
    """
    if not tokenizer.is_fast:
        raise ConfigError(
            f"model '{name}': its tokenizer has no fast form, which tells cotray where a token begins. "
            "Convert it (AutoTokenizer.from_pretrained(..., use_fast=True).save_pretrained(FOLDER), "
            "with sentencepiece or tiktoken installed), and give that folder with the weights"
        )
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            f"model '{name}': its tokenizer has no end-of-sequence token, so that no text would end; set "
            '"eos_token" in its tokenizer_config.json'
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    # "<|im_end|>" in a question is text; as a token it would end it, for whoever wrote the question.
    tokenizer.split_special_tokens = True
    tokenizer.init_kwargs.pop("split_special_tokens", None)  # or it would be exported with a student
    _break_special_words(tokenizer)
    if not is_encoder_decoder:
        _end_no_text(tokenizer)
    return tokenizer


def _break_special_words(tokenizer: Any) -> None:
    """A vocabulary of words or pieces (T5's) has its special tokens among them, and finds them in a text. A
    space in it, as in "< /s>", makes them several."""
    from tokenizers.models import BPE

    if isinstance(tokenizer.backend_tokenizer.model, BPE):
        return
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    special = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    rests: dict[str, list[str]] = {}
    for token in special:
        if len(token) > 1:
            rests.setdefault(token[0], []).append(re.escape(token[1:]))
    breaks = [
        {
            "type": "Replace",
            "pattern": {"Regex": f"{re.escape(first)}(?={'|'.join(rest)})"},
            "content": f"{first} ",
        }
        for first, rest in rests.items()
    ]
    own = [] if state["normalizer"] is None else [state["normalizer"]]
    state["normalizer"] = {"type": "Sequence", "normalizers": [*breaks, *own]}
    tokenizer._tokenizer = type(tokenizer.backend_tokenizer).from_str(json.dumps(state))


def _end_no_text(tokenizer: Any) -> None:
    """Prompts go on, and training puts its own end behind a target: one that the tokenizer adds would be
    trained twice, and would let a model believe that the prompt is all."""
    bare = tokenizer("a", add_special_tokens=False).input_ids
    whole = tokenizer("a").input_ids
    num_before = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    if num_before + len(bare) == len(whole):
        return
    for attribute in ("add_eos_token", "_add_eos_token"):
        if getattr(tokenizer, attribute, False):
            setattr(tokenizer, attribute, False)
    begin = whole[:num_before]
    tokens = tokenizer.convert_ids_to_tokens(begin)
    opening = [{"SpecialToken": {"id": token, "type_id": 0}} for token in tokens]
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    template = {
        "type": "TemplateProcessing",
        "single": [*opening, _sequence("A", 0)],
        "pair": [*opening, _sequence("A", 0), _sequence("B", 1)],
        "special_tokens": {
            token: {"id": token, "ids": [number], "tokens": [token]}
            for token, number in zip(tokens, begin, strict=True)
        },
    }
    state["post_processor"] = _with_template(state["post_processor"], template)
    tokenizer._tokenizer = type(tokenizer.backend_tokenizer).from_str(json.dumps(state))


def _sequence(name: str, type_id: int) -> dict[str, Any]:
    return {"Sequence": {"id": name, "type_id": type_id}}


def _with_template(processor: dict[str, Any] | None, template: dict[str, Any]) -> dict[str, Any]:
    """The post-processor with what adds special tokens replaced; ByteLevel, which mends offsets, stays."""
    if processor is None or processor["type"] != "Sequence":
        return template
    kept = [one for one in processor["processors"] if one["type"] == "ByteLevel"]
    return {"type": "Sequence", "processors": [*kept, template]}


def end_ids(tokenizer: PreTrainedTokenizerBase, name: str, *, revision: str = "main") -> frozenset[int]:
    """Every token that ends a text of a model that is not in memory: as its generation_config.json says, or
    its config.json."""
    from transformers import AutoConfig, GenerationConfig

    from cotray.models.locations import model_path

    path = model_path(name)
    try:
        found: Any = GenerationConfig.from_pretrained(path, revision=revision)
    except OSError:
        found = AutoConfig.from_pretrained(path, revision=revision)
    return with_own_end(tokenizer, found.eos_token_id)


def with_own_end(tokenizer: PreTrainedTokenizerBase, ends: int | list[int] | None) -> frozenset[int]:
    """A model's ends and its tokenizer's: Llama 3 has three, of which its tokenizer knows one."""
    all_ends: list[Any] = [tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])]
    return frozenset(end for end in all_ends if end is not None)
