"""ConSeq: the loss by hand, which questions are chosen, what training does to both texts."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from test_loop import CONFIG, examples_of
from test_loss import logits_with_logprob

from cotray.models.loading import load_model, load_tokenizer
from cotray.models.sequences import IGNORED, Encoded, collate, encode
from cotray.prompts.student import Tags, student_example
from cotray.records import Assessment, Kind, TrainExample
from cotray.training.batches import Batches, ConSeqBatches, StudentBatches
from cotray.training.conseq import pair_up, select
from cotray.training.loop import train
from cotray.training.loss import batch_loss_sum, loss_weights, token_loss_sum, unlikelihood_sum
from cotray.training.renderers import rationale_only


@pytest.fixture(autouse=True)
def one_thread():
    """Two spinning OpenMP threads make these tiny models a hundred times slower on a busy machine."""
    torch.set_num_threads(1)


def test_the_loss_is_the_mean_over_the_tokens_of_both_texts():
    """-ln .9 - ln .5 = .7985 and -ln .8 - ln .4 = 1.1394; sum 1.9379, per token .4845."""
    likely = token_loss_sum(*logits_with_logprob([math.log(0.9), math.log(0.5)]))
    unlikely = unlikelihood_sum(*logits_with_logprob([math.log(0.2), math.log(0.6)]))
    assert likely.item() == pytest.approx(0.7985, abs=1e-4)
    assert unlikely.item() == pytest.approx(1.1394, abs=1e-4)
    weights = loss_weights(2, 0, alpha=0.5, num_rejected=2)
    assert weights.factual * (likely + unlikely).item() == pytest.approx(0.4845, abs=1e-4)


def test_with_counterfactual_tokens_the_three_terms_share_the_loss():
    """alpha = .25: .75 over 3 + 5 tokens, .25 over 2."""
    assert loss_weights(3, 2, alpha=0.25, num_rejected=5) == (0.75 / 8, 0.125)


def test_the_gradient_of_unlearning_a_token_is_that_of_the_hand():
    """L = -log(1 - p_y): dL/dz_y = p_y and dL/dz_k = -p_y p_k / (1 - p_y); z = log (1, 2, 5), y = 1."""
    logits = torch.log(torch.tensor([[[1.0, 2.0, 5.0], [9.0, 1.0, 1.0]]])).requires_grad_()
    unlikelihood_sum(logits, torch.tensor([[1, IGNORED]])).backward()
    assert logits.grad is not None
    assert logits.grad[0, 0].tolist() == pytest.approx([-0.25 * 0.125 / 0.75, 0.25, -0.25 * 0.625 / 0.75])
    assert logits.grad[0, 1].tolist() == [0, 0, 0]


def test_a_token_that_is_certain_or_masked_gives_a_finite_loss_and_gradient():
    logits = torch.tensor([[[200.0, 0.0], [200.0, 0.0]]], requires_grad=True)
    loss = unlikelihood_sum(logits, torch.tensor([[0, IGNORED]]))
    loss.backward()
    assert loss.item() == pytest.approx(20 * math.log(10), rel=1e-6)
    assert logits.grad is not None and logits.grad.isfinite().all()


BEST = [-0.1, -0.5, -0.05, -0.9, -0.2, -0.3, None, -0.4, -0.6, -0.15]
WORST = [-1.2, -0.3, -2.0, -0.7, -1.9, -0.2, -3.0, -0.8, -2.5, -0.1]


def test_questions_are_chosen_that_are_among_the_best_and_among_the_worst():
    """The best three are 2, 0, 9; the worst samples are those of 6, 8, 2."""
    best, worst = ({str(i): score for i, score in enumerate(row)} for row in (BEST, WORST))
    assert select(best, worst, share=0.3) == {"2"}
    assert select(best, best, share=0.5) == {"5"}
    assert select({}, {}) == set()


@pytest.mark.parametrize(("count", "expected"), [(15, 4), (5, 2)])
def test_a_share_that_ends_in_a_half_is_rounded_to_even(count, expected):
    scores = {f"{i:02}": float(i) for i in range(count)}
    assert len(select(scores, {name: -score for name, score in scores.items()}, share=0.3)) == round(
        0.3 * count
    )
    assert round(0.3 * count) == expected


def test_a_question_without_a_score_is_never_chosen_but_counts_as_one():
    """Half of four is two, though one question alone has scores on both sides."""
    some, none = {"a": 1.0, "b": None, "c": None, "d": 2.0}, {"a": -1.0, "b": -3.0, "c": None, "d": None}
    assert select(some, none, share=0.5) == {"a"}
    assert select(some, none, share=1) == {"a"}


def assessed(id_: str, text: str, grounded: float | None, sample: int = 0) -> Assessment:
    row = Assessment(id_, "yes_no", "Is it?", ("yes", "no"), "yes", target_answer="yes")
    return replace(row, rationale=text, grounded=grounded, sample=sample)


def test_of_each_question_the_best_rationale_stands_beside_the_worst_sample():
    rationales = [
        assessed("a", "good", -0.2, 0),
        assessed("a", "better", -0.1, 1),
        assessed("b", "no question to ask", None),
        assessed("c", "fair", -0.3),
        assessed("d", "without samples", -0.1),
    ]
    samples = [
        assessed("a", "wrong", -2.0, 0),
        assessed("a", "worse", -3.0, 1),
        assessed("a", " ", -9.0, 2),
        assessed("b", "odd", -4.0),
        assessed("c", "fair", -5.0, 0),
        assessed("c", "unclear", None, 1),
    ]
    pairs = pair_up(rationales, samples, score="grounded", share=1)
    assert (pairs.num_questions, pairs.num_scored) == (3, 1)
    assert [(pair.chosen.rationale, pair.rejected.rationale) for pair in pairs.selected] == [
        ("better", "worse")
    ]
    backwards = pair_up(rationales[::-1], samples[::-1], score="grounded", share=1)
    assert backwards == pairs


def example(text: str, number: int = 0) -> TrainExample:
    return TrainExample(f"q{number}", "factual", f"Is {number} even?\n", f"{text} So the answer is yes")


def contrast(chosen: TrainExample, rejected: TrainExample) -> list[TrainExample]:
    return [rationale_only(chosen), replace(rationale_only(rejected), kind="rejected")]


def test_only_the_rationale_has_a_loss():
    tokenizer = load_tokenizer("random:llama")
    encoded = encode(rationale_only(example("because it is")), tokenizer, is_encoder_decoder=False)
    learned = [t for t, s in zip(encoded.target, encoded.is_supervised, strict=True) if s]
    assert str(tokenizer.decode(learned)).strip() == "because it is"
    assert str(tokenizer.decode(list(encoded.target[:-1]))).strip() == "because it is So the answer is yes"


@pytest.mark.parametrize("is_encoder_decoder", [False, True])
@pytest.mark.parametrize("kind", ["factual", "counterfactual"])
@pytest.mark.parametrize("tags", ["on", "off"])
def test_the_tag_that_an_encoder_decoder_repeats_is_no_part_of_the_rationale(
    kind: Kind, tags: Tags, is_encoder_decoder: bool
):
    """It is forced when the student writes: unlearning it would take it from the chosen rationales too."""
    row = replace(assessed("a", " He said So the answer is 4. ", None), kind=kind)
    whole = student_example(row, tags=tags, seed=0, is_encoder_decoder=is_encoder_decoder)
    part = rationale_only(whole)
    assert part.target[part.supervise_from : part.supervise_to] == "He said So the answer is 4."


def logprob(model, tokenizer, text: str) -> float:
    """Of the rationale's tokens."""
    kwargs = {"is_encoder_decoder": model.config.is_encoder_decoder}
    encoded = encode(rationale_only(example(text)), tokenizer, **kwargs)
    with torch.no_grad():
        return -batch_loss_sum(model.eval(), collate([encoded], pad_token_id=0, **kwargs)).item()


@pytest.mark.parametrize("name", ["random:llama", "random:t5"])
def test_a_student_that_writes_both_texts_then_likes_the_chosen_one_more_and_the_rejected_one_less(name):
    good, bad = "an even number halves without a rest", "the moon is full of old green cheese"
    model, tokenizer = load_model(name, dtype=torch.float32), load_tokenizer(name)
    rows = [example(text, number) for number, text in enumerate((good, bad) * 4)]
    contrasts = [row for i in range(4) for row in contrast(example(good, i), example(bad, i))]

    def learn(batches: Batches, epochs: int) -> tuple[float, float]:
        reports: list[dict[str, float]] = []
        config = CONFIG.model_copy(update={"epochs": epochs, "learning_rate": 3e-3})
        arguments = {"alpha": 0.5, "seed": 0, "save_checkpoint": lambda state: None, "restore_from": None}
        train(model, tokenizer, batches, [], config, report=reports.append, **arguments)
        assert all(math.isfinite(value) for row in reports for value in row.values())
        return logprob(model, tokenizer, good), logprob(model, tokenizer, bad)

    before = learn(StudentBatches(examples_of(name, rows), batch_size=8, alpha=0.0, seed=0), 40)
    after = learn(ConSeqBatches(examples_of(name, contrasts), batch_size=4, alpha=0.0, seed=0), 20)
    assert after[0] > before[0] + 1
    assert after[1] < before[1] - 1


def test_a_step_has_both_texts_of_the_same_questions_and_as_many_counterfactual_examples():
    rows = [row for i in range(5) for row in contrast(example("good", i), example("bad", i))]
    rows += [TrainExample(f"c{i}", "counterfactual", "?", "no") for i in range(7)]
    rows += [rationale_only(example("good without a bad one", 8))]
    rows += [replace(example("bad without a good one", 9), kind="rejected")]
    batches = conseq_batches(rows)
    assert batches.num_steps_per_epoch == 3
    steps = [batches(step) for step in range(3)]
    assert [len(step.counterfactual) for step in steps] == [2, 2, 1]
    assert sorted(row.id for step in steps for row in step.factual) == [f"q{i}" for i in range(5)]
    for step in steps:
        assert [row.id for row in step.factual] == [row.id for row in step.rejected]
        assert all(text.startswith("good") for text in map(text_of, step.factual))
        assert all(text.startswith("bad") for text in map(text_of, step.rejected))
    assert list(map(list, conseq_batches(rows[::-1])(4))) == list(map(list, batches(4)))


def conseq_batches(rows: list[TrainExample]) -> ConSeqBatches:
    return ConSeqBatches(examples_of("random:llama", rows), batch_size=2, alpha=0.5, seed=3)


def text_of(row: Encoded) -> str:
    return str(load_tokenizer("random:llama").decode(list(row.target)))
