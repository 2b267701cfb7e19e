"""What training costs before and beside its steps, by the number of examples: memory, tokenizing, first step.

The student is one layer of 64 units with SmolLM2's tokenizer, so that memory is that of the data and of the
libraries. Every size is trained twice for a few steps, each time by a driver of its own: from rationales, and
again when the examples are there, as a run that goes on does.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from cotray.config import ModelConfig, RayConfig, TrainingConfig
from cotray.records import Rationale
from cotray.storage.run_folder import RunFolder, schema_of
from cotray.training.batches import StepExamples, StudentBatches
from cotray.training.examples import Examples

SIZES = (10_000, 100_000, 1_000_000)
ROWS_PER_SHARD = 2048
NUM_STEPS, NUM_CPUS, SEED = 4, 2, 1
TOKENIZER = "embedded:smollm2-135m-instruct"
KINDS = ("factual", "counterfactual")


def bench_train_data(sizes: Sequence[int] = SIZES) -> dict[str, Any]:
    """Print a line per size and return the figures; half of the rationales are counterfactual."""
    folder = Path(tempfile.mkdtemp(prefix="cotray-bench-"))
    measured = {}
    try:
        _write_student(folder / "model")
        for size in sizes:
            _write_rationales(folder / str(size), size)
            first, again = (_driver(folder, size) for _ in range(2))
            measured[size] = {**first, **{f"resumed_{name}": value for name, value in again.items()}}
            print(f"{size:>9,} examples: {json.dumps(measured[size])}", flush=True)
            shutil.rmtree(folder / str(size))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    smallest, largest = measured[min(sizes)], measured[max(sizes)]
    name = f"{max(sizes) // 1_000_000}m" if max(sizes) >= 1_000_000 else f"{max(sizes) // 1000}k"
    figures: dict[str, Any] = {
        f"driver_mib_{name}": max(largest["driver_mib"], largest["resumed_driver_mib"]),
        f"worker_memory_{name}_over_{min(sizes) // 1000}k": largest["worker_mib"] / smallest["worker_mib"],
        f"first_step_s_{name}": largest["resumed_first_step_s"],
        "rows_per_s_and_cpu": largest["rows_per_s_and_cpu"],
    }
    return figures | {f"{key}_{size}": value for size, row in measured.items() for key, value in row.items()}


class FirstSteps:
    """The first few steps of the student's batches; each says when it began and what its worker holds."""

    def __init__(self, examples: Examples, *, notes: str, batch_size: int) -> None:
        self.batches = StudentBatches(examples, batch_size=batch_size, alpha=0.5, seed=SEED)
        self.notes = Path(notes)

    @property
    def num_steps_per_epoch(self) -> int:
        return NUM_STEPS

    def __call__(self, step: int) -> StepExamples:
        sizes = memory_of()
        with (self.notes / f"worker-{os.getpid()}.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, "time": time.time(), **sizes}) + "\n")
        # Far apart, as the steps of a long run are.
        return self.batches(step * self.batches.num_steps_per_epoch // NUM_STEPS)


def memory_of() -> dict[str, float]:
    """MiB of this process: what it holds alone (`RssAnon`), and the most with mapped files (`VmHWM`)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    sizes = {name: value.split()[0] for name, _, value in (line.partition(":") for line in lines)
             if name in ("RssAnon", "VmHWM")}  # fmt: skip
    return {name: int(value) / 1024 for name, value in sizes.items()}


def _driver(folder: Path, size: int) -> dict[str, float]:
    notes = Path(tempfile.mkdtemp(dir=folder))
    command = [sys.executable, "-m", "cotray.bench.train_data", str(folder / str(size)), str(notes)]
    environment = {**os.environ, "COTRAY_CACHE": str(folder / "cache")}
    began = time.time()
    subprocess.run(command, check=True, env=environment, stderr=subprocess.DEVNULL)
    driver = json.loads((notes / "driver.json").read_text())
    steps = [
        json.loads(line) for path in notes.glob("worker-*.jsonl") for line in path.read_text().splitlines()
    ]
    examples_s = driver.pop("examples_s")
    return {
        **driver,
        "worker_mib": max(step["RssAnon"] for step in steps),
        "worker_peak_mib": max(step["VmHWM"] for step in steps),
        "first_step_s": min(step["time"] for step in steps) - began,
        "rows_per_s_and_cpu": size / examples_s / NUM_CPUS,
    }


def _main(run_dir: str, notes: str) -> None:
    """The driver: examples, then a few steps."""
    from cotray.pools.ray_cluster import cluster
    from cotray.pools.train_workers import fit
    from cotray.stages.examples import Source, make_examples
    from cotray.training.node_examples import StageExamples
    from cotray.training.renderers import StudentRenderer

    folder, model = RunFolder(run_dir), ModelConfig(model=str(Path(run_dir).parent / "model"))
    training = TrainingConfig(epochs=1, batch_size=16, precision="float32")
    with cluster(RayConfig(num_cpus=NUM_CPUS + 1)):
        began = time.time()
        examples = make_examples(
            folder,
            "examples",
            [Source("rationales", Rationale, StudentRenderer("on", SEED, KINDS))],
            model,
            max_length=training.max_length,
            settings={},
            input="",
            label="examples",
        )
        examples_s = time.time() - began
        fit(
            StageExamples(folder.root, "examples", examples.fingerprint),
            partial(FirstSteps, notes=notes, batch_size=training.batch_size),
            model,
            training,
            f"{run_dir}/student-{time.time_ns()}",
            alpha=0.5,
            seed=SEED,
            on_metrics=lambda metrics: None,
        )
    row = {"driver_mib": memory_of()["VmHWM"], "examples_s": examples_s}
    Path(notes, "driver.json").write_text(json.dumps(row))


def _write_student(folder: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from cotray.models.loading import load_tokenizer

    tokenizer: Any = load_tokenizer(TOKENIZER)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _write_rationales(run_dir: Path, size: int) -> None:
    """What `generate` would have written, shard by shard, so that this process stays small."""
    folder, schema = RunFolder(str(run_dir)), schema_of(Rationale)
    row = Rationale("", "yes_no", "", ("yes", "no"), "yes", method="contrast-wrong+counterfactual")
    for part, start in enumerate(range(0, size, ROWS_PER_SHARD)):
        numbers = range(start, min(size, start + ROWS_PER_SHARD))
        columns = {name: [value] * len(numbers) for name, value in row.to_row().items()}
        columns["id"] = [f"q{number // 2:08d}" for number in numbers]
        columns["kind"] = [KINDS[number % 2] for number in numbers]
        columns["target_answer"] = [("yes", "no")[number % 2] for number in numbers]
        columns["question"] = [f"Could machine {number // 2} lift a horse on the moon?" for number in numbers]
        columns["rationale"] = [
            f"Machine {number // 2} lifts {number % 97} kilograms on the Earth, six times that on the Moon. "
            + "A horse weighs about 500 kilograms. " * (1 + number % 3)
            for number in numbers
        ]
        folder.write_table(f"rationales/part-{part:05d}.parquet", pa.table(columns, schema=schema))


if __name__ == "__main__":
    _main(*sys.argv[1:])
