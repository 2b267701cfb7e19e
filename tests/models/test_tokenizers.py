"""Tokenizers that add an end, have none, or know fewer tokens than the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import processors
from transformers import AutoConfig, GenerationConfig, PreTrainedTokenizerFast

from cotray.errors import ConfigError
from cotray.models.loading import load_tokenizer
from cotray.models.random_models import byte_tokenizer, make_random
from cotray.models.sequences import encode
from cotray.models.tokenizers import end_ids
from cotray.records import TrainExample

EXAMPLE = TrainExample("a", "factual", "Is it?\n", "It is. So the answer is yes", 0)
TEXT = "Q: é?"


def model_with(folder: Path, tokenizer: Any, architecture: str = "llama") -> str:
    make_random(f"random:{architecture}", folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def with_processor(processor: Any, **tokens: str) -> PreTrainedTokenizerFast:
    plain = byte_tokenizer()
    backend: Any = plain.backend_tokenizer
    backend.add_special_tokens(["<s>"])
    backend.post_processor = processor
    names: dict[str, Any] = {"pad_token": "<pad>", "eos_token": "<eos>"} | tokens
    return PreTrainedTokenizerFast(tokenizer_object=backend, **{k: v for k, v in names.items() if v})


def adding(begin: str, end: str) -> Any:
    special = [("<s>", 258), ("<eos>", 1)]
    return processors.TemplateProcessing(single=f"{begin} $A {end}".strip(), special_tokens=special)


BERT = processors.BertProcessing(("<eos>", 1), ("<s>", 258))
BYTES = processors.ByteLevel(trim_offsets=False)
ENDING = {
    "an added eos": lambda: with_processor(adding("", "<eos>")),
    "a begin and an added eos": lambda: with_processor(adding("<s>", "<eos>"), bos_token="<s>"),
    "like BERT": lambda: with_processor(BERT, bos_token="<s>"),
    "with bytes": lambda: with_processor(
        processors.Sequence([BYTES, adding("<s>", "<eos>")]), bos_token="<s>"
    ),
}


@pytest.mark.parametrize("kind", ENDING)
def test_a_tokenizer_that_ends_every_text_ends_none_of_a_decoder_only_model(
    kind: str, tmp_path: Path
) -> None:
    raw: Any = ENDING[kind]()
    assert raw(TEXT).input_ids[-1] == 1
    tokenizer: Any = load_tokenizer(model_with(tmp_path / "model", raw))
    bare = raw(TEXT, add_special_tokens=False).input_ids
    begin = [] if kind == "an added eos" else [258]
    assert tokenizer(TEXT).input_ids == [*begin, *bare]
    encoded = encode(EXAMPLE, tokenizer, is_encoder_decoder=False)
    text = raw(EXAMPLE.source + EXAMPLE.target, add_special_tokens=False).input_ids
    assert [*encoded.source, *encoded.target] == [*begin, *text, 1]
    assert encoded.is_supervised == (True,) * len(encoded.target)
    tokenizer.save_pretrained(tmp_path / "again")
    (tmp_path / "again/config.json").write_text((tmp_path / "model/config.json").read_text())
    assert load_tokenizer(str(tmp_path / "again"))(TEXT).input_ids == [*begin, *bare]


def test_the_end_that_an_encoder_reads_stays(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(model_with(tmp_path, with_processor(adding("", "<eos>")), "t5"))
    assert tokenizer(TEXT).input_ids[-1] == 1


def test_a_tokenizer_whose_padding_is_its_end_still_learns_to_end(tmp_path: Path) -> None:
    raw = with_processor(adding("", ""), pad_token="")
    tokenizer = load_tokenizer(model_with(tmp_path, raw))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 1
    encoded = encode(EXAMPLE, tokenizer, is_encoder_decoder=False)
    assert encoded.target[-1] == 1 and encoded.is_supervised[-1]


def test_a_tokenizer_without_an_end_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'no end-of-sequence token.* set "eos_token"'):
        load_tokenizer(model_with(tmp_path, with_processor(adding("", ""), eos_token="")))


def test_every_end_of_the_generation_settings_ends_a_text(tmp_path: Path) -> None:
    name = model_with(tmp_path, byte_tokenizer())
    tokenizer = load_tokenizer(name)
    (tmp_path / "generation_config.json").unlink(missing_ok=True)
    assert end_ids(tokenizer, name) == {1}
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"eos_token_id": [1, 7]}))
    assert AutoConfig.from_pretrained(name).eos_token_id == [1, 7]
    assert end_ids(tokenizer, name) == {1, 7}
    GenerationConfig(eos_token_id=[5, 6]).save_pretrained(tmp_path)
    assert end_ids(tokenizer, name) == {1, 5, 6}
