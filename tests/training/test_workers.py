"""Two FSDP workers over gloo give what one process gives. One spawned group makes all measurements."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from test_loop import CONFIG, encoded, make_examples, run, student_batches, weights_of
from two_workers import group_of_two, spawn, whole

from cotray.config import Dtype, TrainingConfig
from cotray.models.loading import layer_stacks, load_model, load_tokenizer
from cotray.models.sequences import IGNORED, Encoded, collate, encode
from cotray.records import TrainExample
from cotray.training.blocks import compile_blocks, recompute_activations
from cotray.training.checkpoint import TrainState, save
from cotray.training.fsdp import Gradients
from cotray.training.loop import train
from cotray.training.loss import batch_loss_sum
from cotray.training.model_folder import export
from cotray.training.packing import check_packing
from cotray.training.sharded_loading import load_for_training
from cotray.training.step import Batching, Collator, accumulate_gradients, evaluate, seed_dropout

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


@cache
def naive_gradients(
    name: str, num_factual: int, num_counterfactual: int, num_rejected: int
) -> dict[str, torch.Tensor]:
    """The formula, one row at a time in one process: alpha = 0.5, means over tokens."""
    model, tokenizer = load_model(name, dtype=torch.float32), load_tokenizer(name)
    kwargs = {"is_encoder_decoder": model.config.is_encoder_decoder}

    def read(rows: list[TrainExample]) -> list[Encoded]:
        return [encode(row, tokenizer, **kwargs) for row in rows]

    factual = read(rows_of("factual", num_factual))
    rejected = read(rejected_rows(num_rejected))
    counterfactual = read(rows_of("counterfactual", num_counterfactual))
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


def sharded(
    name: str, precision: Dtype = "float32", change: Callable[[Any], None] = lambda model: None, **placed: Any
):
    return load_for_training(name, precision=precision, change=change, **placed)


def gradient_errors(
    name: str,
    batching: Batching = "padded",
    gradients: Gradients = "unsharded",
    change: Callable[[Any], None] = lambda model: None,
    splits: tuple[tuple[int, int, int, int], ...] = SPLITS,
    loss_chunk: int = 0,
    **placed: Any,
) -> dict[tuple[int, ...], float]:
    """Largest difference to the naive gradient, relative to the largest entry of each tensor (or 1).

    `placed`: as of load_for_training.
    """
    errors = {}
    for num_factual, num_counterfactual, num_rejected, micro_batch_size in splits:
        model = sharded(name, change=change, **placed)
        collator = Collator(model, load_tokenizer(name), micro_batch_size, 0, batching)
        factual = collator(encoded(name, rows_of("factual", num_factual)))
        counterfactual = collator(encoded(name, rows_of("counterfactual", num_counterfactual)))
        rejected = collator(encoded(name, rejected_rows(num_rejected)))
        parts = (factual, counterfactual, rejected)
        accumulate_gradients(model, *parts, alpha=0.5, gradients=gradients, loss_chunk=loss_chunk)
        expected = naive_gradients(name, num_factual, num_counterfactual, num_rejected)
        errors[num_factual, num_counterfactual, num_rejected, micro_batch_size] = max(
            (
                (whole(gradient(parameter)) - expected[key]).abs().max() / max(1, expected[key].abs().max())
            ).item()
            for key, parameter in model.named_parameters()
        )
    return errors


# Several micro-batches per worker, and a worker without rows.
FEW_SPLITS = ((5, 3, 0, 1), (4, 3, 3, 2), (1, 1, 0, 4))
VARIANTS: dict[str, dict[str, Any]] = {
    "sharded gradients": {"gradients": "sharded"},
    "compiled blocks": {"change": partial(compile_blocks, backend="aot_eager")},
}


def with_dropout(name: str, change: Callable[[Any], None]) -> tuple[int, list[torch.Tensor]]:
    """How often a layer of the first block computes in a step, and the gradients."""
    model, calls = sharded(name, change=change), []
    first = next(layer for layer in layer_stacks(model)[0][0].modules() if isinstance(layer, torch.nn.Linear))
    first.register_forward_pre_hook(lambda *ignored: calls.append(1))
    seed_dropout(3, 0)
    factual = Collator(model, load_tokenizer(name), 8)(encoded(name, rows_of("factual", 4)))
    accumulate_gradients(model.train(), factual, [], alpha=0.0)
    return len(calls), [whole(gradient(parameter)).clone() for parameter in model.parameters()]


def train_sharded(
    name: str,
    folder: Path,
    restore_from: Path | None = None,
    report: Callable[[dict[str, float]], None] = lambda metrics: None,
    config: TrainingConfig = CONFIG,
    **placed: Any,
) -> TrainState:
    def keep(state: TrainState) -> None:
        target = folder / str(state.progress.step)
        target.mkdir(parents=True, exist_ok=True)
        save(state, target)

    return train(
        sharded(name, **placed),
        load_tokenizer(name),
        student_batches(name, DATA, config),
        encoded(name, DEV),
        config,
        alpha=0.5,
        seed=1,
        report=report,
        save_checkpoint=keep,
        restore_from=restore_from,
    )


def measure(rank: int, folder: Path) -> None:
    """What each of the two processes runs; rank 0 leaves the results on disk."""
    with group_of_two(rank, folder):
        results: dict[Any, Any] = {"gradient_errors": {name: gradient_errors(name) for name in MODELS}}
        results["packed_errors"] = gradient_errors("random:llama", "packed")
        results["chunked_errors"] = {
            name: gradient_errors(name, loss_chunk=5, splits=FEW_SPLITS) for name in MODELS
        }
        for variant, options in VARIANTS.items():
            results[variant] = {name: gradient_errors(name, **options, splits=FEW_SPLITS) for name in MODELS}
        for name in MODELS:
            results["recomputed", name] = with_dropout(name, recompute_activations)
            results["kept", name] = with_dropout(name, lambda model: None)
        for name in MODELS:
            straight = train_sharded(name, folder / name)
            resumed = train_sharded(name, folder / f"{name}-resumed", restore_from=folder / name / "2")
            results[name] = {
                "straight": {key: whole(value) for key, value in weights_of(straight).items()},
                "resumed": {key: whole(value) for key, value in weights_of(resumed).items()},
                "dev_losses": [row["dev_loss"] for row in straight.progress.history],
            }
            export(straight, load_tokenizer(name), folder / f"{name}-export")
            batches = Collator(straight.model, load_tokenizer(name), 2)(encoded(name, DEV))
            results[name]["exported_dev_loss"] = evaluate(straight.model, batches)
        model = sharded("random:llama", "bfloat16")
        collator = Collator(model, load_tokenizer("random:llama"), 2)
        check_packing(model, "random:llama")
        loss = accumulate_gradients(model, collator(encoded("random:llama", DEV)), [], alpha=0.0)
        dtypes = {gradient(parameter).dtype for parameter in model.parameters()}
        results["bfloat16"] = {"loss": loss.total, "dtypes": dtypes}
        if rank == 0:
            torch.save(results, folder / "results.pt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("workers")
    spawn(measure, path)
    return path


@pytest.fixture(scope="module")
def results(folder):
    return torch.load(folder / "results.pt", weights_only=False)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("split", SPLITS)
def test_two_workers_give_the_gradient_of_one_process(results, name, split):
    assert results["gradient_errors"][name][split] < 1e-5


@pytest.mark.parametrize("split", SPLITS)
def test_two_workers_with_packed_examples_give_the_gradient_of_one_process_without(results, split):
    assert results["packed_errors"][split] < 1e-5


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", MODELS)
def test_sharded_gradients_and_compiled_blocks_give_the_gradient_of_one_process(results, name, variant):
    assert results[variant][name].keys() == set(FEW_SPLITS)
    assert max(results[variant][name].values()) < 1e-5


@pytest.mark.parametrize("name", MODELS)
def test_activations_are_computed_twice_and_give_the_same_gradient_with_the_same_dropout(results, name):
    num_calls, found = results["recomputed", name]
    num_calls_kept, expected = results["kept", name]
    assert num_calls == 2 * num_calls_kept > 0
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_two_workers_with_a_loss_in_chunks_give_the_gradient_of_one_process(results, name):
    assert results["chunked_errors"][name].keys() == set(FEW_SPLITS)
    assert max(results["chunked_errors"][name].values()) < 1e-5


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
        expected = results["random:llama"]["dev_losses"]
        assert dev_losses[0] == pytest.approx(expected[0], rel=1e-5)
        # What rounding moves grows from step to step: by 8e-4 and 1.04e-3 on one kind of CPU.
        assert dev_losses == pytest.approx(expected, rel=3e-3)
        for key, value in weights_of(state).items():
            straight = results["random:llama"]["straight"][key]
            assert (value - straight).norm() < 1e-3 * straight.norm(), key


@pytest.mark.parametrize("name", MODELS)
def test_two_workers_export_the_best_weights_whole(results, folder, name):
    """The exported folder, evaluated in one process, has the lowest dev loss of the run."""
    exported = load_model(str(folder / f"{name}-export"), dtype=torch.float32)
    tokenizer = load_tokenizer(str(folder / f"{name}-export"))
    dev_loss = evaluate(exported, Collator(exported, tokenizer, 2)(encoded(name, DEV)))
    assert dev_loss == pytest.approx(min(results[name]["dev_losses"]), rel=1e-5)
    assert dev_loss == pytest.approx(results[name]["exported_dev_loss"], rel=1e-5)
    assert exported.config.architectures == [type(exported).__name__]


def test_bfloat16_computes_near_float32_and_keeps_float32_gradients(results):
    model = load_model("random:llama", dtype=torch.float32)
    expected = evaluate(
        model, Collator(model, load_tokenizer("random:llama"), 2)(encoded("random:llama", DEV))
    )
    assert results["bfloat16"]["loss"] == pytest.approx(expected, rel=0.05)
    assert results["bfloat16"]["loss"] != pytest.approx(expected, rel=1e-6)
    assert results["bfloat16"]["dtypes"] == {torch.float32}
