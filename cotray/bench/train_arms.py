"""What `bench train` compares, each in a process of its own that waits before every step until it is told.

    python -m cotray.bench.train_arms PROCESS PRECISION FOLDER NUM_STEPS

FOLDER has the run folder with the examples, the `go` files of the driver, and gets the notes of the steps.
The learning rate is so small that no weight moves by more than rounding: every step of every arm has the same
loss then, and yet does all of the work.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch

from cotray.bench.memory import forget_peak, peak_mib
from cotray.models.loading import compute_dtype, load_model, load_tokenizer
from cotray.models.sequences import IGNORED, Batch, Encoded
from cotray.training.batches import StepExamples, StudentBatches
from cotray.training.examples import Examples
from cotray.training.node_examples import StageExamples

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from cotray.config import Dtype

MODEL = "embedded:smollm2-135m-instruct"
MICRO_BATCH, SEED = 8, 1
LEARNING_RATE, CLIP_NORM = 1e-12, 1.0
NUM_THREADS = 2
PADDED_MICRO_BATCH = 4
"""As many tokens as the other arms compute in a step; with 8 a process would hold 9 GiB."""
SIDE = 128
"""Tokens that SCOTT's scripts pad the source and the target to."""

Arm = Literal["cotray", "plain", "padded", "trl", "trl_alike"]
PROCESSES: dict[str, tuple[Arm, ...]] = {
    "cotray": ("cotray",),
    "plain": ("plain", "padded"),
    "trl": ("trl_alike", "trl"),
}
"""Which arms take turns in which process, with the same weights."""


class Gate:
    """One process's turns: it notes when each step ends, and waits for the file that lets the next begin."""

    def __init__(self, folder: str | Path, process: str) -> None:
        self.folder, self.process, self.num_begun = Path(folder), process, 0

    def wait(self) -> None:
        """Until the next step may begin."""
        path = self.folder / f"{self.process}-{self.num_begun}.go"
        while not path.exists():
            time.sleep(0.005)
        self.num_begun += 1
        self._note("begun", {"time": time.time()})
        forget_peak()

    def end(self, **figures: float) -> None:
        """Of the step that was begun last."""
        self._note("ended", {"time": time.time(), "peak_mib": peak_mib(), **figures})

    def _note(self, what: str, figures: dict[str, float]) -> None:
        scratch = self.folder / f"{self.process}.scratch"
        scratch.write_text(json.dumps(figures))
        scratch.rename(self.folder / f"{self.process}-{self.num_begun - 1}.{what}")


class GatedBatches:
    """The student's batches for cotray's trainer, of which each step waits for its turn."""

    def __init__(self, examples: Examples, *, precision: str, folder: str, num_steps: int) -> None:
        self.steps, self.num_steps = steps_of(examples, precision), num_steps
        self.gate = Gate(folder, "cotray")

    @property
    def num_steps_per_epoch(self) -> int:
        """One more than are timed: a step's end is noted when the next one is asked for."""
        return self.num_steps + 1

    def __call__(self, step: int) -> StepExamples:
        if step:
            self.gate.end()
        if step == self.num_steps:
            return StepExamples(self.steps(0).factual[:1])
        self.gate.wait()
        return self.steps(step)


def step_examples(precision: str) -> int:
    """Examples of one step; few where the CPU emulates bfloat16."""
    is_native = precision == "float32" or compute_dtype("auto", "cpu") == torch.bfloat16
    return 16 if is_native else 2


def steps_of(examples: Examples, precision: str) -> StudentBatches:
    return StudentBatches(examples, batch_size=step_examples(precision), alpha=0.0, seed=SEED)


def main(process: str, precision: Dtype, folder: str, num_steps: int) -> None:
    if process == "cotray":
        return _cotray(precision, folder, num_steps)
    torch.set_num_threads(NUM_THREADS)
    run = _trl if process == "trl" else _plain
    run(precision, Gate(folder, process), num_steps)


def stage_examples(folder: str | Path) -> StageExamples:
    version = json.loads(Path(folder, "stage.json").read_text())
    return StageExamples(str(Path(folder, "run")), "examples", version)


def _cotray(precision: Dtype, folder: str, num_steps: int) -> None:
    """As the verb `train` does it: Ray Train on a cluster of this machine, with the defaults."""
    from cotray.config import ModelConfig, RayConfig, TrainingConfig
    from cotray.pools.ray_cluster import cluster
    from cotray.pools.train_workers import fit

    training = TrainingConfig(epochs=1, precision=precision, learning_rate=LEARNING_RATE, max_failures=0)
    with cluster(RayConfig(num_cpus=NUM_THREADS + 1)), Path(folder, "cotray.metrics").open("w", 1) as metrics:
        fit(
            stage_examples(folder),
            partial(GatedBatches, precision=precision, folder=folder, num_steps=num_steps),
            ModelConfig(model=MODEL),
            training,
            f"{folder}/student-{precision}",
            alpha=0.0,
            seed=SEED,
            has_dev=False,
            on_metrics=lambda row: print(json.dumps(row), file=metrics),
        )


def _plain(precision: Dtype, gate: Gate, num_steps: int) -> None:
    """The step as anyone would write it: no Ray, no sharding, no trainer."""
    from cotray.training.step import Collator

    model, tokenizer = _model(), cast(Any, load_tokenizer(MODEL))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    # The same passes as cotray's; what the loop leaves out is everything around them.
    collate: dict[str, Callable[[Sequence[Encoded]], list[Batch]]] = {
        "plain": lambda rows: [part.batch for part in Collator(model, tokenizer, MICRO_BATCH)(rows)],
        "padded": lambda rows: [
            both_sides_padded(rows[start : start + PADDED_MICRO_BATCH], tokenizer.pad_token_id)
            for start in range(0, len(rows), PADDED_MICRO_BATCH)
        ],
    }
    steps = steps_of(stage_examples(gate.folder).opened(), precision)
    for arm, step in turns("plain", precision, num_steps):
        gate.wait()
        rows = steps(step).factual
        optimizer.zero_grad()
        batches = collate[arm](rows)
        num_supervised = sum(int((batch.labels_BK != IGNORED).sum()) for batch in batches)
        total = 0.0
        for batch in batches:
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
                logits = model(**batch.inputs, use_cache=False).logits[:, -batch.labels_BK.shape[1] :]
            losses = torch.nn.functional.cross_entropy(
                logits.float().flatten(0, 1), batch.labels_BK.flatten(), ignore_index=IGNORED, reduction="sum"
            )
            loss = losses / num_supervised
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        gate.end(loss=total, num_places=sum(batch.num_places for batch in batches))


def both_sides_padded(rows: Sequence[Encoded], pad: int) -> Batch:
    """SCOTT's rule for a decoder-only model: every source and every target fills SIDE columns."""
    ids, mask, labels = [], [], []
    for row in rows:
        before, after = SIDE - len(row.source), SIDE - len(row.target)
        assert before >= 0 and after >= 0, f"'{row.id}' is longer than {SIDE} tokens on one side"
        ids.append([pad] * before + [*row.source, *row.target] + [pad] * after)
        mask.append([0] * before + [1] * row.num_tokens + [0] * after)
        targets = [t if s else IGNORED for t, s in zip(row.target, row.is_supervised, strict=True)]
        labels.append([*targets, *[IGNORED] * (after + 1)])
    mask_BS = torch.tensor(mask)
    inputs = {
        "input_ids": torch.tensor(ids),
        "attention_mask": mask_BS,
        "position_ids": (mask_BS.cumsum(1) - 1).clamp(min=0),
        "logits_to_keep": SIDE + 1,
    }
    return Batch(inputs, torch.tensor(labels))


def _trl(precision: Dtype, gate: Gate, num_steps: int) -> None:
    """SFTTrainer on the same token ids; activations are kept, as all others do."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer  # type: ignore[attr-defined]

    steps = steps_of(stage_examples(gate.folder).opened(), precision)
    rows = list[dict[str, Any]]()
    places = list[int]()
    for arm, step in turns("trl", precision, num_steps):
        of_step = list(steps(step).factual)
        if arm == "trl_alike":  # passes of similar lengths, which is cotray's rule
            of_step.sort(key=lambda row: -row.num_tokens)
        rows += [_as_labels(row) for row in of_step]
        passes = [of_step[start : start + MICRO_BATCH] for start in range(0, len(of_step), MICRO_BATCH)]
        places.append(sum(len(p) * max(row.num_tokens for row in p) for p in passes))

    class Turns(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            gate.wait()

        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            if "loss" in logs:
                gate.end(loss=logs["loss"], num_places=places[gate.num_begun - 1])

    settings = SFTConfig(
        output_dir=str(gate.folder / "trl"),
        per_device_train_batch_size=min(MICRO_BATCH, step_examples(precision)),
        gradient_accumulation_steps=max(1, step_examples(precision) // MICRO_BATCH),
        num_train_epochs=1,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        max_grad_norm=CLIP_NORM,
        optim="adamw_torch_fused",
        train_sampling_strategy="sequential",
        bf16=precision == "bfloat16",
        gradient_checkpointing=False,
        max_length=None,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    tokenizer: Any = load_tokenizer(MODEL)
    tokenizer.split_special_tokens = False  # TRL writes the end of a text as text
    trainer = SFTTrainer(
        model=cast(Any, _model()),
        args=settings,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[Turns()],
    )
    trainer.train()


def _as_labels(row: Encoded) -> dict[str, list[int]]:
    labels = [t if s else IGNORED for t, s in zip(row.target, row.is_supervised, strict=True)]
    return {"input_ids": [*row.source, *row.target], "labels": [*[IGNORED] * len(row.source), *labels]}


def turns(process: str, precision: str, num_steps: int) -> Iterator[tuple[Arm, int]]:
    """The arm and the number of every step of a process. SCOTT's padding is measured in float32 alone, as
    it takes four times as long as all others."""
    for step in range(num_steps):
        for arm in PROCESSES[process]:
            if arm != "padded" or precision == "float32":
                yield arm, step


def _model() -> PreTrainedModel:
    return load_model(MODEL, dtype=torch.float32).train()


if __name__ == "__main__":
    _process, _precision, _folder, _num_steps = sys.argv[1:]
    main(_process, cast(Any, _precision), _folder, int(_num_steps))
