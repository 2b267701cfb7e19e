"""Rationales that a student draws: the same in any batch and order, from the likeliest tokens alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from splitmix import splitmix

from cotray.inference.top_k_sampler import Sampler, TopKDraws, sampled_rationales
from cotray.prompts.student import student_source
from cotray.records import Rationale, TeacherRequest
from cotray.seeds import digest

QUESTIONS = ("Is ice cold?", "Can a fish, which breathes water, live on a dry stone for a week?", "Is it?")


def drafts(num_samples: int = 3) -> list[Rationale]:
    requests = [
        TeacherRequest(f"q{i}", "yes_no", text, ("yes", "no"), "yes", target_answer="yes")
        for i, text in enumerate(QUESTIONS)
    ]
    return sampled_rationales(requests, num_samples=num_samples, method="greedy")


def sampler(model: str, *, top_k: int = 50, seed: int = 5) -> Sampler:
    return Sampler(model, top_k=top_k, max_new_tokens=12, tags="on", seed=seed)


def test_each_request_has_its_drafts_numbered_next_to_each_other() -> None:
    assert [(row.id, row.sample) for row in drafts(2)] == [(f"q{i}", n) for i in range(3) for n in (0, 1)]


@pytest.mark.parametrize("model", ["random:llama", "random:t5"])
def test_samples_do_not_depend_on_batch_size_or_order(model: str) -> None:
    student, rows = sampler(model), drafts()
    alone = [student.write([row])[0] for row in rows]
    shuffled = [rows[i] for i in (7, 2, 5, 0, 8, 3, 6, 1, 4)]
    written = [row for start in (0, 7) for row in student.write(shuffled[start : start + 7])]
    assert sorted(written, key=lambda row: (row.id, row.sample)) == alone
    assert len({row.rationale for row in alone}) == len(alone)
    assert sampler(model, seed=6).write(rows) != alone


def test_the_likeliest_token_alone_is_greedy_decoding() -> None:
    from cotray.inference.generation import generate_texts

    student, rows = sampler("random:llama", top_k=1), drafts(1)
    sources = [student_source(row, tag="[factual]") for row in rows]
    texts = generate_texts(student.model, student.tokenizer, sources, forced="", max_new_tokens=12)
    assert [row.rationale for row in student.write(rows)] == [text.strip() for text in texts]


def test_a_sample_is_that_of_a_loop_over_steps_with_random_numbers_of_its_own() -> None:
    """One row, no cache, numpy: the CDF of the five likeliest tokens in the order of their ids."""
    student, row = sampler("random:llama", top_k=5), drafts(2)[3]
    seed = digest(5, "q1", "sample", "1") >> 1
    ids: list[int] = student.tokenizer("[factual] " + QUESTIONS[1] + "\n").input_ids
    drawn: list[int] = []
    for step in range(12):
        with torch.no_grad():
            logits = student.model(torch.tensor([ids + drawn])).logits[0, -1].double().numpy()
        likeliest = np.sort(np.argsort(logits)[-5:])
        weights = np.exp(logits[likeliest] - logits.max())
        cdf = np.cumsum(weights / weights.sum())
        drawn.append(int(likeliest[np.searchsorted(cdf, splitmix(seed, step), side="right")]))
        if drawn[-1] == student.tokenizer.eos_token_id:
            break
    (written,) = student.write([row])
    expected = str(student.tokenizer.decode(drawn, skip_special_tokens=True)).strip()
    assert (written.rationale, written.num_tokens) == (expected, len(drawn))


def test_draws_follow_the_softmax_of_the_likeliest_tokens() -> None:
    """p = (.4, .3, .2, .1), top 2 of them: 4/7 and 3/7, by 20,000 rows."""
    logits = torch.log(torch.tensor([[0.2, 0.4, 0.1, 0.3]])).expand(20_000, -1)
    choice = TopKDraws([digest(0, str(row)) >> 1 for row in range(20_000)], top_k=2)
    for _ in range(2):  # at every step
        shares = torch.bincount(choice(torch.zeros(20_000, 1), logits).argmax(-1), minlength=4) / 20_000
        assert shares.tolist() == pytest.approx([0, 4 / 7, 0, 3 / 7], abs=4 * math.sqrt(0.25 / 20_000))
