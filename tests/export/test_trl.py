"""TRL's own trainers take the exported files as they are, and learn what cotray's students learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, load_dataset
from finished_runs import run_folder
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from cotray.commands.export import main
from cotray.config import dump_config
from cotray.models.loading import load_model, load_tokenizer
from cotray.models.sequences import encode
from cotray.prompts.student import student_example
from cotray.records import Rationale
from cotray.storage.run_folder import RunFolder
from cotray.training.chat_settings import ChatSettings

MODEL = "random:qwen2"


def exported(tmp_path: Path, to: str) -> Path:
    (tmp_path / "c.yaml").write_text(dump_config(run_folder(tmp_path)))
    out = tmp_path / "out"
    assert main(["-c", str(tmp_path / "c.yaml"), "--to", to, "--out", str(out)]) == 0
    return out


def loaded(folder: Path, tmp_path: Path, config: str = "default") -> Dataset:
    dataset: Any = load_dataset(str(folder), config, split="train", cache_dir=str(tmp_path / "cache"))
    return dataset


def student() -> tuple[Any, Any]:
    model, tokenizer = load_model(MODEL, dtype=torch.float32), load_tokenizer(MODEL)
    ChatSettings("[factual]", 64).put_on(model, tokenizer)
    tokenizer.split_special_tokens = False  # as in every tokenizer that is read from a folder
    return model.train(), tokenizer


def arguments(kind: Any, tmp_path: Path) -> Any:
    return kind(
        output_dir=str(tmp_path / "trained"),
        max_steps=1,
        per_device_train_batch_size=2,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
        seed=0,
    )


def learned(trainer: Any) -> list[float]:
    """The loss of the one step, after which no weight that has a gradient is what it was."""
    before = {name: tensor.clone() for name, tensor in trainer.model.named_parameters()}
    losses = [row["loss"] for row in (trainer.train(), trainer.state.log_history)[1] if "loss" in row]
    changed = [name for name, tensor in trainer.model.named_parameters() if not tensor.equal(before[name])]
    assert changed
    return losses


def sequences(tmp_path: Path) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Tokens and those of them that have a loss, of the training rows, as `train` encodes them."""
    _, tokenizer = student()
    folder = RunFolder(str(tmp_path / "run/contrast-wrong+counterfactual"))
    rows = [r for r in folder.read_records("rationales", Rationale) if r.split == "train" and not r.error]
    found = []
    for row in rows:
        example = student_example(row, tags="on", seed=0, is_encoder_decoder=False)
        encoded = encode(example, tokenizer, is_encoder_decoder=False)
        learned = [
            t for t, is_learned in zip(encoded.target, encoded.is_supervised, strict=True) if is_learned
        ]
        found.append(((*encoded.source, *encoded.target), tuple(learned)))
    return found


def trls(trainer: Any) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The same of TRL's batch."""
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(trainer.train_dataset))])
    return [
        (
            tuple(t for t, is_there in zip(ids, mask, strict=True) if is_there),
            tuple(t for t in labels if t != -100),
        )
        for ids, mask, labels in zip(
            batch["input_ids"].tolist(),
            batch["attention_mask"].tolist(),
            batch["labels"].tolist(),
            strict=True,
        )
    ]


def test_sft_on_completions_learns_the_sequences_of_train(tmp_path: Path) -> None:
    dataset = loaded(exported(tmp_path, "completion"), tmp_path)
    model, tokenizer = student()
    trainer = SFTTrainer(
        model, args=arguments(SFTConfig, tmp_path), train_dataset=dataset, processing_class=tokenizer
    )
    assert trls(trainer) == sequences(tmp_path)
    assert len(learned(trainer)) == 1


def test_sft_on_chats_reads_the_factual_sequences_through_the_students_template(tmp_path: Path) -> None:
    dataset = loaded(exported(tmp_path, "chat"), tmp_path)
    model, tokenizer = student()
    trainer = SFTTrainer(
        model, args=arguments(SFTConfig, tmp_path), train_dataset=dataset, processing_class=tokenizer
    )
    assert [tokens for tokens, _ in trls(trainer)] == [sequences(tmp_path)[0][0]]
    assert len(learned(trainer)) == 1


@pytest.mark.parametrize("source", ["decoding", "student"])
def test_dpo_on_preferences_makes_a_step(source: str, tmp_path: Path) -> None:
    dataset = loaded(exported(tmp_path, "preference"), tmp_path, source)
    model, tokenizer = student()
    trainer = DPOTrainer(
        model, args=arguments(DPOConfig, tmp_path), train_dataset=dataset, processing_class=tokenizer
    )
    assert learned(trainer) == [
        pytest.approx(0.6931, abs=1e-3)
    ]  # -log sigmoid(0): it begins as the reference
