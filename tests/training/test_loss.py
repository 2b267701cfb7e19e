"""The loss and its masks, worked out by hand, and what must not depend on padding."""

from __future__ import annotations

import math

import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from cotray.models.loading import load_model, load_tokenizer
from cotray.models.sequences import IGNORED, Encoded, collate, encode, encode_all
from cotray.prompts.student import student_example
from cotray.records import Rationale, TrainExample
from cotray.training.loss import batch_loss_sum, loss_weights, token_loss_sum

COUNTERFACTUAL = Rationale(
    id="q1",
    task="yes_no",
    question="q",
    choices=("yes", "no"),
    answer="no",
    kind="counterfactual",
    target_answer="yes",
    contrast_answer="no",
    rationale="r1 r2",
)


@pytest.fixture(autouse=True)
def one_thread():
    """Two spinning OpenMP threads make these tiny models a hundred times slower on a busy machine."""
    torch.set_num_threads(1)


def logits_with_logprob(logprobs: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Two-word logits in which label 0 has the given log-probability."""
    logits = torch.tensor([[[lp, math.log1p(-math.exp(lp))] for lp in logprobs]])
    return logits, torch.zeros(1, len(logprobs), dtype=torch.long)


@pytest.mark.parametrize(("alpha", "expected"), [(0.5, 0.5), (0.0, 0.25)])
def test_loss_mixes_the_token_means_of_both_batches(alpha, expected):
    """.5 * .25 + .5 * .75 = .5, although there are twice as many factual tokens."""
    factual_sum = token_loss_sum(*logits_with_logprob([-0.1, -0.2, -0.3, -0.4]))
    counterfactual_sum = token_loss_sum(*logits_with_logprob([-1.0, -0.5]))
    weights = loss_weights(4, 2, alpha=alpha)
    loss = weights.factual * factual_sum + weights.counterfactual * counterfactual_sum
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_a_step_without_counterfactual_tokens_is_plain_factual():
    assert loss_weights(4, 0, alpha=0.5) == (0.25, 0.0)


def test_masked_positions_have_no_loss_and_a_fully_masked_batch_still_has_a_gradient():
    logits, labels = logits_with_logprob([-0.1, -0.2])
    labels[0, 0] = IGNORED
    assert token_loss_sum(logits, labels).item() == pytest.approx(0.2, abs=1e-6)
    logits.requires_grad_()
    token_loss_sum(logits, torch.full_like(labels, IGNORED)).backward()
    assert logits.grad is not None and logits.grad.abs().max() == 0


def word_tokenizer() -> PreTrainedTokenizerFast:
    words = ["<pad>", "<eos>", "[", "counterfactual]", "r1", "r2", "So", "the", "answer", "is", "yes", "q"]
    tokenizer = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<pad>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"\["), "isolated")]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


def test_counterfactual_row_reads_the_whole_target_but_learns_the_answer_and_eos_only():
    """[F T r1 r2 So the answer is | yes eos] -> labels [-100 x 8, yes, eos]."""
    tokenizer = word_tokenizer()
    example = student_example(COUNTERFACTUAL, tags="on", seed=0, is_encoder_decoder=True)
    batch = collate(
        [encode(example, tokenizer, is_encoder_decoder=True)], pad_token_id=0, is_encoder_decoder=True
    )
    yes, eos = 10, 1
    assert batch.labels_BK.tolist() == [[IGNORED] * 8 + [yes, eos]]
    assert batch.inputs["decoder_input_ids"].tolist() == [[0, 2, 3, 4, 5, 6, 7, 8, 9, yes]]


@pytest.mark.parametrize("name", ["random:llama", "random:t5"])
def test_counterfactual_rows_send_no_gradient_into_rationale_logits(name):
    model, tokenizer = load_model(name, dtype=torch.float32), load_tokenizer(name)
    is_encoder_decoder = model.config.is_encoder_decoder
    example = student_example(COUNTERFACTUAL, tags="on", seed=0, is_encoder_decoder=is_encoder_decoder)
    encoded = encode(example, tokenizer, is_encoder_decoder=is_encoder_decoder)
    batch = collate([encoded], pad_token_id=0, is_encoder_decoder=is_encoder_decoder)
    inputs = {**batch.inputs, "logits_to_keep": 0} if "logits_to_keep" in batch.inputs else batch.inputs
    logits = model(**inputs).logits
    logits.retain_grad()
    token_loss_sum(logits[:, -batch.labels_BK.shape[1] :], batch.labels_BK).backward()
    has_gradient = logits.grad.abs().sum(-1)[0] > 0
    # " yes" is four bytes; with eos five tokens are learned. A decoder-only model predicts them one
    # column earlier, and its last column predicts nothing.
    expected = [False] * (len(has_gradient) - 5) + [True] * 5
    assert has_gradient.tolist() == (expected if is_encoder_decoder else [*expected[1:], False])


@pytest.mark.parametrize("name", ["random:llama", "random:gpt2", "random:t5"])
def test_padding_does_not_change_the_loss(name):
    model, tokenizer = load_model(name, dtype=torch.float32), load_tokenizer(name)
    is_encoder_decoder = model.config.is_encoder_decoder
    examples = [
        TrainExample("a", "factual", "short?\n", "No. So the answer is no"),
        TrainExample("b", "counterfactual", "a much longer question?\n", "Yes! So the answer is yes", 21),
        TrainExample("c", "factual", "q\n", "A far longer rationale than these. So the answer is maybe"),
    ]
    encoded = [encode(example, tokenizer, is_encoder_decoder=is_encoder_decoder) for example in examples]

    def loss_sum(rows: list[Encoded]) -> float:
        return batch_loss_sum(
            model, collate(rows, pad_token_id=0, is_encoder_decoder=is_encoder_decoder)
        ).item()

    with torch.no_grad():
        assert loss_sum(encoded) == pytest.approx(sum(loss_sum([row]) for row in encoded), rel=1e-5)


@pytest.mark.parametrize("name", ["random:llama", "random:t5"])
def test_examples_tokenized_together_are_those_tokenized_alone(name: str) -> None:
    """T5's first token of a text may span no character; it stays with the target."""
    tokenizer = load_tokenizer(name)
    texts = [("ab\n", "cd"), ("", " x"), ("Frage: é\n", "Straße 12"), ("q", "")]
    rows = [TrainExample(str(n), "factual", source, target) for n, (source, target) in enumerate(texts)]
    is_encoder_decoder = name == "random:t5"
    together = encode_all(rows, tokenizer, is_encoder_decoder=is_encoder_decoder)
    assert together == [encode(row, tokenizer, is_encoder_decoder=is_encoder_decoder) for row in rows]
    for row, found in zip(rows, together, strict=True):
        whole = tokenizer(row.target, add_special_tokens=False).input_ids
        if is_encoder_decoder:
            assert list(found.target) == [*whole, tokenizer.eos_token_id]
            assert list(found.source) == tokenizer(row.source).input_ids
        else:
            assert [*found.source, *found.target[:-1]] == tokenizer(row.source + row.target).input_ids
