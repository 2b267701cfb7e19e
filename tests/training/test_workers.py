"""Two FSDP workers over gloo give what one process gives. One spawned group makes all measurements."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from test_loop import CONFIG, make_examples, run, weights_of
from torch.distributed.tensor import DTensor

from cotray.config import Dtype
from cotray.models.loading import load_model, load_tokenizer
from cotray.models.sequences import IGNORED, Encoded, collate, encode
from cotray.records import TrainExample
from cotray.training.batches import StudentBatches
from cotray.training.checkpoint import TrainState, export, save
from cotray.training.fsdp import shard
from cotray.training.loop import train
from cotray.training.loss import batch_loss_sum
from cotray.training.step import Collator, accumulate_gradients, evaluate

MODELS = ("random:llama", "random:t5")
# (factual rows, counterfactual rows, rejected rows, micro-batch size): even, uneven, accumulating, a worker
# without rows
SPLITS = ((4, 4, 0, 8), (5, 3, 0, 2), (5, 3, 0, 1), (1, 1, 0, 4), (3, 0, 0, 1), (4, 3, 3, 2), (2, 0, 1, 1))
DATA = make_examples(7)
DEV = [example for example in make_examples(3, prefix="so ") if example.kind == "factual"]


def rejected_rows(count: int) -> list[TrainExample]:
    """Cut off before the answer."""
    rows = [example for example in make_examples(10, prefix="why ") if example.kind == "factual"][:count]
    return [replace(row, supervise_to=row.target.index("So the answer")) for row in rows]


def rows_of(kind: str, count: int) -> list[TrainExample]:
    return [example for example in make_examples(10) if example.kind == kind][:count]


def naive_gradients(
    name: str, num_factual: int, num_counterfactual: int, num_rejected: int
) -> dict[str, torch.Tensor]:
    """The formula, one row at a time in one process: alpha = 0.5, means over tokens."""
    model, tokenizer = load_model(name, dtype=torch.float32), load_tokenizer(name)
    kwargs = {"is_encoder_decoder": model.config.is_encoder_decoder}

    def encoded(rows: list[TrainExample]) -> list[Encoded]:
        return [encode(row, tokenizer, **kwargs) for row in rows]

    factual = encoded(rows_of("factual", num_factual))
    rejected = encoded(rejected_rows(num_rejected))
    counterfactual = encoded(rows_of("counterfactual", num_counterfactual))
    for share, likely, unlikely in ((0.5, factual, rejected), (0.5, counterfactual, [])):
        num_tokens = sum(sum(row.is_supervised) for row in (*likely, *unlikely))
        share = share if num_counterfactual else 1.0
        for row in likely:
            loss_sum = batch_loss_sum(model, collate([row], pad_token_id=0, **kwargs))
            (loss_sum / num_tokens * share).backward()
        for row in unlikely:
            batch = collate([row], pad_token_id=0, **kwargs)
            logits = model(**batch.inputs).logits[0, -batch.labels_BK.shape[1] :]
            for position, label in enumerate(batch.labels_BK[0]):
                if label != IGNORED:
                    loss = -torch.log(1 - torch.softmax(logits[position], -1)[label])
                    (loss / num_tokens * share).backward(retain_graph=True)
    return {name: gradient(parameter) for name, parameter in model.named_parameters()}


def gradient(parameter: torch.nn.Parameter) -> torch.Tensor:
    assert parameter.grad is not None
    return parameter.grad


def sharded(name: str, precision: Dtype = "float32"):
    model = load_model(name, dtype=torch.float32)
    shard(model, precision)
    return model


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gradient_errors(name: str) -> dict[tuple[int, ...], float]:
    """Largest difference to the naive gradient, relative to the largest entry of each tensor (or 1)."""
    errors = {}
    for num_factual, num_counterfactual, num_rejected, micro_batch_size in SPLITS:
        model = sharded(name)
        collator = Collator(model, load_tokenizer(name), micro_batch_size)
        factual = collator(rows_of("factual", num_factual))
        counterfactual = collator(rows_of("counterfactual", num_counterfactual))
        rejected = collator(rejected_rows(num_rejected))
        accumulate_gradients(model, factual, counterfactual, rejected, alpha=0.5)
        expected = naive_gradients(name, num_factual, num_counterfactual, num_rejected)
        errors[num_factual, num_counterfactual, num_rejected, micro_batch_size] = max(
            (
                (whole(gradient(parameter)) - expected[key]).abs().max() / max(1, expected[key].abs().max())
            ).item()
            for key, parameter in model.named_parameters()
        )
    return errors


def train_sharded(name: str, folder: Path, restore_from: Path | None = None) -> TrainState:
    def keep(state: TrainState) -> None:
        target = folder / str(state.progress.step)
        target.mkdir(parents=True, exist_ok=True)
        save(state, target)

    return train(
        sharded(name),
        load_tokenizer(name),
        StudentBatches(DATA, batch_size=CONFIG.batch_size, alpha=0.5, seed=1),
        DEV,
        CONFIG,
        alpha=0.5,
        seed=1,
        report=lambda metrics: None,
        save_checkpoint=keep,
        restore_from=restore_from,
    )


def measure(rank: int, folder: Path) -> None:
    """What each of the two processes runs; rank 0 leaves the results on disk."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    results: dict[str, Any] = {"gradient_errors": {name: gradient_errors(name) for name in MODELS}}
    for name in MODELS:
        straight = train_sharded(name, folder / name)
        resumed = train_sharded(name, folder / f"{name}-resumed", restore_from=folder / name / "2")
        results[name] = {
            "straight": {key: whole(value) for key, value in weights_of(straight).items()},
            "resumed": {key: whole(value) for key, value in weights_of(resumed).items()},
            "dev_losses": [row["dev_loss"] for row in straight.progress.history],
        }
        export(straight, load_tokenizer(name), folder / f"{name}-export")
        batches = Collator(straight.model, load_tokenizer(name), 2)(DEV)
        results[name]["exported_dev_loss"] = evaluate(straight.model, batches)
    model = sharded("random:llama", "bfloat16")
    collator = Collator(model, load_tokenizer("random:llama"), 2)
    loss = accumulate_gradients(model, collator(DEV), [], alpha=0.0)
    dtypes = {gradient(parameter).dtype for parameter in model.parameters()}
    results["bfloat16"] = {"loss": loss.total, "dtypes": dtypes}
    if rank == 0:
        torch.save(results, folder / "results.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("workers")
    mp.spawn(measure, args=(path,), nprocs=2, join=True)  # ends both if one fails
    return path


@pytest.fixture(scope="module")
def results(folder):
    return torch.load(folder / "results.pt", weights_only=False)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("split", SPLITS)
def test_two_workers_give_the_gradient_of_one_process(results, name, split):
    assert results["gradient_errors"][name][split] < 1e-5


@pytest.mark.parametrize("name", MODELS)
def test_two_workers_resume_to_the_weights_of_a_straight_run(results, name):
    """To the bit, T5 with dropout."""
    straight, resumed = results[name]["straight"], results[name]["resumed"]
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)


def test_one_process_trains_to_the_weights_of_two_workers_and_reads_their_checkpoint(results, folder):
    """llama has no dropout, so both orders of summation are all that differs.

    Weights are compared as whole tensors: AdamW moves an element whose gradient is nearly zero by up to the
    learning rate in either direction, whichever way its sum was rounded.
    """
    alone, _ = run("random:llama", CONFIG, train_on=DATA, dev=DEV)
    other_half, _ = run(
        "random:llama", CONFIG, train_on=DATA, dev=DEV, restore_from=folder / "random:llama" / "2"
    )
    for state in (alone, other_half):
        dev_losses = [row["dev_loss"] for row in state.progress.history]
        assert dev_losses == pytest.approx(results["random:llama"]["dev_losses"], rel=1e-3)
        for key, value in weights_of(state).items():
            straight = results["random:llama"]["straight"][key]
            assert (value - straight).norm() < 3e-4 * straight.norm(), key


@pytest.mark.parametrize("name", MODELS)
def test_two_workers_export_the_best_weights_whole(results, folder, name):
    """The exported folder, evaluated in one process, has the lowest dev loss of the run."""
    exported = load_model(str(folder / f"{name}-export"), dtype=torch.float32)
    tokenizer = load_tokenizer(str(folder / f"{name}-export"))
    dev_loss = evaluate(exported, Collator(exported, tokenizer, 2)(DEV))
    assert dev_loss == pytest.approx(min(results[name]["dev_losses"]), rel=1e-5)
    assert dev_loss == pytest.approx(results[name]["exported_dev_loss"], rel=1e-5)
    assert exported.config.architectures == [type(exported).__name__]


def test_bfloat16_computes_near_float32_and_keeps_float32_gradients(results):
    model = load_model("random:llama", dtype=torch.float32)
    expected = evaluate(model, Collator(model, load_tokenizer("random:llama"), 2)(DEV))
    assert results["bfloat16"]["loss"] == pytest.approx(expected, rel=0.05)
    assert results["bfloat16"]["loss"] != pytest.approx(expected, rel=1e-6)
    assert results["bfloat16"]["dtypes"] == {torch.float32}
