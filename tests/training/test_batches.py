"""Batches are a pure function of (seed, step) and cover what they should."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_loop import examples_of

from cotray.models.sequences import Encoded
from cotray.records import TrainExample
from cotray.training.batches import SimulatorBatches, Steps, Stream, StudentBatches
from cotray.training.examples import Examples

FACTUAL = [TrainExample(f"{index:02}", "factual", "q", "a") for index in range(10)]
COUNTERFACTUAL = [TrainExample(f"{index:02}", "counterfactual", "q", "a") for index in range(7)]


def student_batches(examples=(*FACTUAL, *COUNTERFACTUAL), alpha=0.5, seed=3) -> StudentBatches:
    return StudentBatches(of(examples), batch_size=4, alpha=alpha, seed=seed)


def of(examples) -> Examples:
    return examples_of("random:llama", examples)


def ids(examples) -> list[str]:
    return [example.id for example in examples]


def read(batches, step: int) -> list[list[Encoded]]:
    return [list(kind) for kind in batches(step)]


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


def test_a_batch_larger_than_the_counterfactual_set_repeats_it():
    batches = StudentBatches(of([*FACTUAL, *COUNTERFACTUAL[:2]]), batch_size=5, alpha=0.5, seed=0)
    assert Counter(ids(batches(0)[1])).total() == 5


def test_alpha_zero_draws_no_counterfactual_batch():
    assert not student_batches(alpha=0.0)(0).counterfactual


def test_input_order_and_earlier_calls_change_nothing_but_the_seed_does():
    examples = [*FACTUAL, *COUNTERFACTUAL]
    shuffled = random.Random(1).sample(examples, len(examples))
    expected = [read(student_batches(), step) for step in range(9)]
    fresh = student_batches(shuffled)
    assert [read(fresh, step) for step in reversed(range(9))] == expected[::-1]
    assert [read(student_batches(seed=4), step) for step in range(9)] != expected


def simulator_batches() -> SimulatorBatches:
    """Of ten answers, the tokens of whose three forms are 1, 2 or 3 beside the target's."""
    rows = [
        replace(example, source=source, kind=kind)
        for example in FACTUAL
        for kind, source in (("factual", "xxx"), ("x", "xx"), ("e", "x"))
    ]
    return SimulatorBatches(of(rows), batch_size=8, explanation_dropout=0.5, input_dropout=0.2, seed=0)


def test_simulator_batches_drop_exact_counts_and_never_both():
    """int(.5 * 8) = 4 rows keep x alone, int(.2 * 8) = 1 row keeps e alone; of 2 rows: 1 and 0."""
    batches = simulator_batches()
    arms = {3: "xe", 2: "x", 1: "e"}
    counts = [Counter(arms[len(row.source)] for row in batches(step)[0]) for step in range(6)]
    assert counts == [{"x": 4, "e": 1, "xe": 3}, {"x": 1, "xe": 1}] * 3
    first = {row.id: len(row.source) for step in (0, 1) for row in batches(step)[0]}
    second = {row.id: len(row.source) for step in (2, 3) for row in batches(step)[0]}
    assert sorted(first) == sorted(second) == ids(FACTUAL)
    assert first != second
    assert not batches(4).counterfactual


@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=60),
    batch_tokens=st.integers(1, 400),
    epoch=st.integers(0, 3),
)
def test_steps_by_tokens_take_every_example_once_an_epoch_and_are_equal_up_to_one_example(
    lengths: list[int], batch_tokens: int, epoch: int
):
    stream = Stream(len(lengths), seed=1, name="factual")
    steps = Steps(stream, np.array(lengths), batch_size=7, batch_tokens=batch_tokens)
    places = [steps.place(epoch * steps.per_epoch + number) for number in range(steps.per_epoch)]
    assert [start for start, _ in places] == [
        epoch * len(lengths) + sum(count for _, count in places[:n]) for n in range(len(places))
    ]
    assert sum(count for _, count in places) == len(lengths)
    assert all(count >= 1 for _, count in places)
    assert steps.per_epoch == min(len(lengths), -(-sum(lengths) // batch_tokens))
    if sum(lengths) / steps.per_epoch > max(lengths):
        sizes = [sum(lengths[p] for p in stream.take(*place).tolist()) for place in places]
        mean = sum(lengths) / steps.per_epoch
        assert all(abs(size - mean) <= max(lengths) for size in sizes)


def test_a_step_by_tokens_has_as_many_counterfactual_examples_as_factual_ones():
    batches = StudentBatches(of([*FACTUAL, *COUNTERFACTUAL]), batch_size=1, batch_tokens=9, alpha=0.5, seed=0)
    assert batches.num_steps_per_epoch == 4  # ten examples of three tokens, nine tokens a step
    steps = [batches(step) for step in range(4)]
    assert sorted(len(step.factual) for step in steps) == [2, 2, 3, 3]
    assert all(len(step.factual) == len(step.counterfactual) for step in steps)


def test_the_order_of_an_epoch_is_that_of_earlier_versions():
    """Whoever resumes with a new version of cotray goes on with the same batches."""
    order = [int(row.id) for step in range(3) for row in student_batches()(step).factual]
    assert order == pytest.approx(random_order(10))


def random_order(size: int) -> list[int]:
    from cotray.seeds import seeded

    return seeded(3, "factual", "0").sample(range(size), size)
