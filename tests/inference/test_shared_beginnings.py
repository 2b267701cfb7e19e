"""What all rows of a batch begin with is read once; nothing that is written or scored shows it."""

from __future__ import annotations

import pytest
import torch

from cotray.inference.contexts import LEAST_SHARED, num_shared_tokens
from cotray.inference.generation import generate_texts
from cotray.inference.likelihood import Context, candidate_logprobs
from cotray.models.loading import load_for_inference

BEGINNING = "Q: is rain wet?\nA: Rain is water. So the answer is yes.\n\n"
SOURCES = [
    f"{BEGINNING}Q: {question}\nA:" for question in ("is ice cold?", "may a bee sting twice?", "is it?")
]


@pytest.fixture(scope="module")
def model_and_tokenizer():
    return load_for_inference("random:llama")


def test_a_beginning_ends_before_any_rows_last_token_and_pays_only_when_it_is_long() -> None:
    long = list(range(LEAST_SHARED))
    assert num_shared_tokens([[*long, 7], [*long, 8, 9]]) == LEAST_SHARED
    assert num_shared_tokens([[*long, 7], [*long, 7]]) == LEAST_SHARED
    assert num_shared_tokens([long, long]) == 0, "one token fewer"
    assert num_shared_tokens([[*long, 7]]) == 0, "nobody to share with"
    assert num_shared_tokens([[1, *long], [2, *long]]) == 0


def test_texts_after_a_shared_beginning_are_those_of_one_source_at_a_time(model_and_tokenizer) -> None:
    model, tokenizer = model_and_tokenizer
    assert num_shared_tokens(tokenizer(SOURCES).input_ids) >= len(BEGINNING), "a token is a byte"
    together = generate_texts(model, tokenizer, SOURCES, forced="", max_new_tokens=24)
    for source, text in zip(SOURCES, together, strict=True):
        ids = tokenizer(source, return_tensors="pt").input_ids
        alone = model.generate(ids, do_sample=False, max_new_tokens=24, pad_token_id=0)
        assert text == tokenizer.decode(alone[0, ids.shape[1] :], skip_special_tokens=True)


def test_the_whole_prompt_is_passed_over_once_and_the_beginning_in_one_row(model_and_tokenizer) -> None:
    model, tokenizer = model_and_tokenizer
    shapes: list[torch.Size] = []
    hook = model.get_input_embeddings().register_forward_pre_hook(lambda _, ids: shapes.append(ids[0].shape))
    generate_texts(model, tokenizer, SOURCES, forced="", max_new_tokens=2)
    hook.remove()
    rows = tokenizer(SOURCES).input_ids
    num_shared = num_shared_tokens(rows)
    assert shapes == [(1, num_shared), (3, max(map(len, rows)) - num_shared), (3, 1)]


def test_candidates_after_a_shared_beginning_have_the_log_probabilities_of_one_pass_each(
    model_and_tokenizer,
) -> None:
    model, tokenizer = model_and_tokenizer
    contexts = [
        Context(source, " Because.", [" yes", " no", " perhaps"][: 2 + i % 2])
        for i, source in enumerate(SOURCES)
    ]
    for context, logprobs in zip(contexts, candidate_logprobs(model, tokenizer, contexts), strict=True):
        for candidate, logprob in zip(context.candidates, logprobs, strict=True):
            before = tokenizer(context.source + context.target_prefix).input_ids
            ids = torch.tensor([before + tokenizer(candidate, add_special_tokens=False).input_ids])
            with torch.inference_mode():
                logprobs_SV = model(ids).logits[0].float().log_softmax(-1)
            expected = sum(logprobs_SV[i - 1, ids[0, i]].item() for i in range(len(before), ids.shape[1]))
            assert logprob == pytest.approx(expected, abs=1e-4)
