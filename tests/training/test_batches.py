"""Batches are a pure function of (seed, step) and cover what they should."""

from __future__ import annotations

import pickle
import random
from collections import Counter
from itertools import chain

from cotray.models.loading import load_tokenizer
from cotray.records import TrainExample
from cotray.training.batches import SimulatorBatches, StudentBatches, split_by_length

FACTUAL = [TrainExample(f"{index:02}", "factual", "q", "a") for index in range(10)]
COUNTERFACTUAL = [TrainExample(f"{index:02}", "counterfactual", "q", "a") for index in range(7)]


def student_batches(examples=(*FACTUAL, *COUNTERFACTUAL), alpha=0.5, seed=3) -> StudentBatches:
    return StudentBatches(examples, batch_size=4, alpha=alpha, seed=seed)


def ids(examples) -> list[str]:
    return [example.id for example in examples]


def test_an_epoch_holds_every_factual_example_once_and_keeps_the_last_partial_batch():
    batches = student_batches()
    assert batches.num_steps_per_epoch == 3
    for epoch in range(3):
        epoch_ids = [ids(batches(step)[0]) for step in range(epoch * 3, epoch * 3 + 3)]
        assert [len(batch) for batch in epoch_ids] == [4, 4, 2]
        assert sorted(chain.from_iterable(epoch_ids)) == ids(FACTUAL)
    assert ids(batches(0)[0]) != ids(batches(3)[0])


def test_counterfactual_batches_have_the_factual_size_and_use_up_their_stream_before_repeating():
    batches = student_batches()
    stream = [name for step in range(21) for name in ids(batches(step)[1])]
    assert [len(batches(step)[1]) for step in range(3)] == [4, 4, 2]
    assert len(stream) == 70
    rounds = [stream[start : start + 7] for start in range(0, 70, 7)]
    assert all(sorted(one) == ids(COUNTERFACTUAL) for one in rounds)
    assert len({tuple(one) for one in rounds}) > 1
    assert all(example.kind == "counterfactual" for example in batches(5)[1])


def test_a_batch_larger_than_the_counterfactual_set_repeats_it():
    batches = StudentBatches([*FACTUAL, *COUNTERFACTUAL[:2]], batch_size=5, alpha=0.5, seed=0)
    assert Counter(ids(batches(0)[1])).total() == 5


def test_alpha_zero_draws_no_counterfactual_batch():
    assert not student_batches(alpha=0.0)(0).counterfactual


def test_input_order_and_earlier_calls_change_nothing_but_the_seed_does():
    examples = [*FACTUAL, *COUNTERFACTUAL]
    shuffled = random.Random(1).sample(examples, len(examples))
    expected = [student_batches()(step) for step in range(9)]
    fresh = student_batches(shuffled)
    assert [fresh(step) for step in reversed(range(9))] == expected[::-1]
    assert [pickle.loads(pickle.dumps(fresh))(step) for step in range(9)] == expected
    assert [student_batches(seed=4)(step) for step in range(9)] != expected


def render(item: TrainExample, drop_x: bool, drop_e: bool) -> TrainExample:
    return TrainExample(item.id, "factual", f"{'' if drop_x else 'x'}{'' if drop_e else 'e'}", "y")


def test_simulator_batches_drop_exact_counts_and_never_both():
    """int(.5 * 8) = 4 rows keep x alone, int(.2 * 8) = 1 row keeps e alone; of 2 rows: 1 and 0."""
    batches = SimulatorBatches(
        FACTUAL, render, batch_size=8, explanation_dropout=0.5, input_dropout=0.2, seed=0
    )
    counts = [Counter(example.source for example in batches(step)[0]) for step in range(6)]
    assert counts == [{"x": 4, "e": 1, "xe": 3}, {"x": 1, "xe": 1}] * 3
    first = {example.id: example.source for step in (0, 1) for example in batches(step)[0]}
    second = {example.id: example.source for step in (2, 3) for example in batches(step)[0]}
    assert sorted(first) == sorted(second) == ids(FACTUAL)
    assert first != second
    assert not batches(4).counterfactual


def test_rows_over_the_length_limit_are_returned_not_cut():
    """Bytes are tokens: 4 + 5 + eos = 10 in one sequence, and 4 | 6 on two sides."""
    tokenizer = load_tokenizer("random:llama")
    example = TrainExample("a", "factual", "abc\n", "defgh")
    for is_encoder_decoder, length in ((False, 10), (True, 6)):
        kwargs = {"is_encoder_decoder": is_encoder_decoder}
        assert split_by_length([example], tokenizer, max_length=length, **kwargs) == ([example], [])
        assert split_by_length([example], tokenizer, max_length=length - 1, **kwargs) == ([], [example])
