"""An exported student answers in other programs as it does in cotray."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, pipeline

from cotray.config import ScoringConfig
from cotray.models.loading import load_model, load_tokenizer
from cotray.prompts.student import TaggedPrompt, student_source
from cotray.records import QAPair
from cotray.scoring.student import Student
from cotray.training.chat_settings import ChatSettings
from cotray.training.checkpoint import TrainState
from cotray.training.model_folder import export

MAX_LENGTH = 24
PAIRS = (
    QAPair("1", "yes_no", "Can a heron swim?", ("yes", "no"), "no"),
    QAPair("2", "multiple_choice", "Where does rain come from?", ("clouds", "rivers"), "clouds"),
)


def exported(name: str, folder: Path, chat: ChatSettings | None) -> Path:
    """A model that was trained from one with other ideas of how it is asked."""
    model, tokenizer = load_model(name, dtype=torch.float32), load_tokenizer(name)
    tokenizer.chat_template = "You are a helpful assistant."
    model.generation_config = GenerationConfig(do_sample=True, temperature=1.7, repetition_penalty=1.3)
    state = TrainState(model, torch.optim.AdamW(model.parameters()))
    export(state, tokenizer, folder, chat=chat)
    return folder


@pytest.mark.parametrize("tag", ["[factual]", ""])
@pytest.mark.parametrize("name", ["random:llama", "random:gpt2"])
def test_a_text_generation_pipeline_writes_what_the_student_writes(
    name: str, tag: str, tmp_path: Path
) -> None:
    folder = str(exported(name, tmp_path, ChatSettings(tag, MAX_LENGTH)))
    config = ScoringConfig(max_new_tokens=MAX_LENGTH)
    student = Student(folder, config=config, prompt=TaggedPrompt(tag), seed=0, method="greedy")
    expected = [reply.text for reply in student.respond(PAIRS, [None, None])]
    generate: Any = pipeline("text-generation", model=folder, device="cpu")
    for pair, text in zip(PAIRS, expected, strict=True):
        chat = [{"role": "user", "content": student_source(pair, tag="")}]
        said = generate(chat, return_full_text=False)[0]["generated_text"]
        assert said.strip() and text.startswith(said.strip())


def test_generation_is_greedy_in_the_words_that_every_engine_reads(tmp_path: Path) -> None:
    exported("random:llama", tmp_path, ChatSettings("[factual]", MAX_LENGTH))
    settings = json.loads((tmp_path / "generation_config.json").read_text())
    settings.pop("transformers_version")
    assert settings == {
        "do_sample": True,
        "top_k": 1,
        "max_new_tokens": MAX_LENGTH,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }


def test_an_encoder_decoder_has_no_chat_template(tmp_path: Path) -> None:
    exported("random:t5", tmp_path, ChatSettings("[factual]", MAX_LENGTH))
    assert load_tokenizer(str(tmp_path)).chat_template is None
    assert GenerationConfig.from_pretrained(str(tmp_path)).decoder_start_token_id == 0


def test_a_model_that_is_no_student_keeps_what_it_had(tmp_path: Path) -> None:
    exported("random:llama", tmp_path, None)
    assert load_tokenizer(str(tmp_path)).chat_template == "You are a helpful assistant."
    assert GenerationConfig.from_pretrained(str(tmp_path)).temperature == 1.7
