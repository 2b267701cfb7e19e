"""The loop in one process: gradients, resuming, early stopping, export."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from cotray.config import TrainingConfig
from cotray.errors import StageError
from cotray.models.loading import load_model, load_tokenizer
from cotray.models.sequences import Encoded
from cotray.records import TrainExample
from cotray.training.batches import StudentBatches
from cotray.training.checkpoint import TrainState, restore_best, save
from cotray.training.examples import Examples
from cotray.training.loop import train
from cotray.training.model_folder import export
from cotray.training.step import Collator, accumulate_gradients, evaluate

CONFIG = TrainingConfig(
    learning_rate=1e-2, warmup_fraction=0, epochs=3, batch_size=4, micro_batch_size=2, patience=10
)


@pytest.fixture(autouse=True)
def one_thread():
    """Two spinning OpenMP threads make these tiny models a hundred times slower on a busy machine."""
    torch.set_num_threads(1)


def make_examples(count: int, *, prefix: str = "") -> list[TrainExample]:
    """Rows of very different lengths, a counterfactual one for every second question."""
    examples = []
    for index in range(count):
        source, why = f"{prefix}is {index} even?\n", "because it is " * (index % 5 + 1)
        target = f"{why}So the answer is {'yes' if index % 2 == 0 else 'no'}"
        examples.append(TrainExample(f"{index:02}", "factual", source, target))
        if index % 2:
            examples.append(TrainExample(f"{index:02}", "counterfactual", source, target, len(why)))
    return examples


def examples_of(name: str, rows: Sequence[TrainExample]) -> Examples:
    is_encoder_decoder = name == "random:t5"
    return Examples.of(rows, load_tokenizer(name), is_encoder_decoder=is_encoder_decoder)


def encoded(name: str, rows: Sequence[TrainExample]) -> list[Encoded]:
    """The rows as a model of that name reads them, in their order."""
    examples = examples_of(name, rows)
    return [examples[number] for number in range(len(rows))]


def student_batches(name: str, rows: Sequence[TrainExample], config: TrainingConfig) -> StudentBatches:
    return StudentBatches(
        examples_of(name, rows),
        batch_size=config.batch_size,
        batch_tokens=config.batch_tokens,
        alpha=0.5,
        seed=1,
    )


def run(name: str, config: TrainingConfig, *, train_on, dev=(), save_checkpoint=lambda state: None, **kwargs):
    """(state, reported metrics) of a run of `train`."""
    model, reports = load_model(name, dtype=torch.float32), []
    batches = student_batches(name, train_on, config)
    arguments = {"alpha": 0.5, "seed": 1, "restore_from": None, **kwargs}
    state = train(
        model,
        load_tokenizer(name),
        batches,
        encoded(name, dev),
        config,
        report=reports.append,
        save_checkpoint=save_checkpoint,
        **arguments,
    )
    return state, reports


def weights_of(state: TrainState) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in state.model.named_parameters()}


@pytest.mark.parametrize("name", ["random:llama", "random:t5"])
def test_micro_batch_size_does_not_change_the_gradient(name):
    tokenizer = load_tokenizer(name)
    factual, counterfactual = (
        encoded(name, [example for example in make_examples(7) if example.kind == kind])
        for kind in ("factual", "counterfactual")
    )
    gradients, losses = [], []
    for micro_batch_size in (1, 3, 16):
        model = load_model(name, dtype=torch.float32)
        collator = Collator(model, tokenizer, micro_batch_size)
        loss = accumulate_gradients(model, collator(factual), collator(counterfactual), alpha=0.5)
        gradients.append([parameter.grad for parameter in model.parameters()])
        losses.append(loss.total)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6) == pytest.approx(losses[2], rel=1e-6)
    for other in gradients[1:]:
        for one, two in zip(gradients[0], other, strict=True):
            assert (one - two).abs().max() <= 1e-5 * max(1.0, one.abs().max().item())


def test_loss_falls_and_every_step_is_reported():
    state, reports = run("random:llama", CONFIG, train_on=make_examples(8), dev=make_examples(3))
    steps = [row for row in reports if "loss" in row]
    assert [row["step"] for row in steps] == [1, 2, 3, 4, 5, 6]
    assert [row["epoch"] for row in steps] == [1, 1, 2, 2, 3, 3]
    assert steps[-1]["loss"] < steps[0]["loss"] - 1
    assert steps[0]["loss"] == pytest.approx(
        0.5 * steps[0]["loss_factual"] + 0.5 * steps[0]["loss_counterfactual"]
    )
    assert steps[0]["learning_rate"] == 1e-2 and steps[5]["learning_rate"] == pytest.approx(1e-2 / 6)
    assert [row["dev_loss"] for row in state.progress.history] == [
        row["dev_loss"] for row in reports if "dev_loss" in row
    ]


@pytest.mark.parametrize("name", ["random:llama", "random:t5"])
def test_resuming_at_an_epoch_equals_a_straight_run_to_the_bit(name, tmp_path):
    """T5 trains with dropout, which must be drawn again exactly."""

    def keep(state: TrainState) -> None:
        folder = tmp_path / str(state.progress.step)
        folder.mkdir()
        save(state, folder)

    data = {"train_on": make_examples(7), "dev": make_examples(3)}
    straight, _ = run(name, CONFIG, **data, save_checkpoint=keep)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["2", "4", "6"]
    resumed, reports = run(name, CONFIG, **data, restore_from=tmp_path / "2")
    assert [row["step"] for row in reports if "loss" in row] == [3, 4, 5, 6]
    assert [row["dev_loss"] for row in resumed.progress.history] == [
        row["dev_loss"] for row in straight.progress.history
    ]
    for one, two in zip(weights_of(straight).values(), weights_of(resumed).values(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("name", ["random:llama", "random:t5"])
def test_resuming_inside_an_epoch_equals_a_straight_run_to_the_bit_and_in_its_metrics(name, tmp_path):
    """A checkpoint after every step: the third of six is in the middle of the second epoch."""

    def keep(state: TrainState) -> None:
        (tmp_path / str(state.progress.step)).mkdir()
        save(state, tmp_path / str(state.progress.step))

    data = {"train_on": make_examples(7), "dev": make_examples(3)}
    often = CONFIG.model_copy(update={"checkpoint_minutes": 1e-9})
    straight, _ = run(name, often, **data, save_checkpoint=keep)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == list("123456")
    resumed, reports = run(name, CONFIG, **data, restore_from=tmp_path / "3")
    assert [row["step"] for row in reports if "loss" in row] == [4, 5, 6]
    rates = {"train_s", "tokens_per_s"}
    for one, two in zip(straight.progress.history, resumed.progress.history, strict=True):
        assert {k: v for k, v in one.items() if k not in rates} == {
            k: v for k, v in two.items() if k not in rates
        }
    for one, two in zip(weights_of(straight).values(), weights_of(resumed).values(), strict=True):
        assert torch.equal(one, two)


def test_a_checkpoint_is_made_at_once_when_a_node_is_about_to_go():
    """Notices before the fourth and the fifth of six steps; epochs end after every second."""
    saved, notices = [], iter([None, None, None, "node 1", "nodes 1 and 2", "nodes 1 and 2"])
    run(
        "random:llama",
        CONFIG,
        train_on=make_examples(7),
        save_checkpoint=lambda state: saved.append(state.progress.step),
        notice=lambda: next(notices),
    )
    assert saved == [2, 4, 5, 6]


def test_early_stopping_keeps_the_best_weights_also_over_a_resume(tmp_path):
    """Training on one thing makes the other worse: dev loss rises after its best epoch."""
    dev = [TrainExample("d", "factual", "Q\n", "XYZ XYZ XYZ XYZ")]
    config = CONFIG.model_copy(update={"epochs": 30, "patience": 2})

    def keep(state: TrainState) -> None:
        (tmp_path / str(len(state.progress.history))).mkdir()
        save(state, tmp_path / str(len(state.progress.history)))

    state, _ = run("random:llama", config, train_on=make_examples(8), dev=dev, save_checkpoint=keep)
    losses = [row["dev_loss"] for row in state.progress.history]
    best = losses.index(min(losses))
    assert len(losses) == best + 1 + 3 < 30  # more than `patience` epochs in a row did not improve
    assert state.progress.best_dev_loss == losses[best]

    resumed, reports = run(
        "random:llama", config, train_on=make_examples(8), dev=dev, restore_from=tmp_path / str(len(losses))
    )
    assert not reports  # the checkpoint remembers that the run is over
    for one in (state, resumed):
        restore_best(one)
        dev_batches = Collator(one.model, load_tokenizer("random:llama"), 2)(encoded("random:llama", dev))
        assert evaluate(one.model, dev_batches) == losses[best]


def test_early_stopping_waits_for_the_end_of_warm_up():
    dev = [TrainExample("d", "factual", "Q\n", "XYZ XYZ XYZ XYZ")]
    config = CONFIG.model_copy(
        update={"epochs": 6, "patience": 0, "warmup_fraction": 1.0, "learning_rate": 0.3}
    )
    state, _ = run("random:llama", config, train_on=make_examples(8), dev=dev)
    losses = [row["dev_loss"] for row in state.progress.history]
    assert len(losses) == 6 and any(later >= earlier for earlier, later in pairwise(losses))


@pytest.mark.parametrize(
    ("name", "auto"),
    [
        ("random:llama", AutoModelForCausalLM),
        ("random:gpt2", AutoModelForCausalLM),
        ("random:t5", AutoModelForSeq2SeqLM),
    ],
)
def test_export_loads_with_transformers_and_has_the_same_logits(name, auto, tmp_path):
    """gpt2 and T5 tie their embeddings; without dev examples the last weights are exported."""
    config = CONFIG.model_copy(update={"epochs": 1})
    state, _ = run(name, config, train_on=make_examples(4))
    tokenizer = load_tokenizer(name)
    export(state, tokenizer, tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    loaded = auto.from_pretrained(tmp_path)
    ids = AutoTokenizer.from_pretrained(tmp_path)("is it even?", return_tensors="pt").input_ids
    inputs = {"input_ids": ids, **({"decoder_input_ids": ids} if loaded.config.is_encoder_decoder else {})}
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, state.model.eval()(**inputs).logits)


def test_a_loss_that_is_not_finite_stops_before_the_update():
    name = "random:llama"
    with pytest.raises(StageError, match=r"step 1 \(examples 0\d, .*\): the loss is nan .*learning_rate"):
        run(
            name,
            CONFIG,
            train_on=make_examples(4),
            alpha=float("nan"),
        )


def test_training_that_diverges_stops_with_the_step_its_examples_and_the_way_out():
    """Its first loss is 12.5, and a rate of 3 passes ten times that in a few steps."""
    config = CONFIG.model_copy(update={"learning_rate": 3.0, "epochs": 20, "clip_norm": 1e9})
    with pytest.raises(StageError, match=r"step \d+ \(examples 0\d.*above .*diverged; lower") as caught:
        run("random:llama", config, train_on=make_examples(8))
    assert "\n" not in str(caught.value)
