"""Forward passes of similar length: the least padding there is, and every worker with as many of them."""

from __future__ import annotations

from itertools import chain, combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotray.training.micro_batches import micro_batches


def cost(lengths: list[int], passes: list[list[int]], pass_tokens: int) -> int:
    """Tokens computed with the padding, and what the passes cost."""
    return sum(len(rows) * max(lengths[row] for row in rows) + pass_tokens for rows in passes)


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=9),
    max_rows=st.integers(1, 4),
    pass_tokens=st.integers(0, 20),
)
def test_no_cut_of_the_sorted_examples_costs_less(lengths: list[int], max_rows: int, pass_tokens: int):
    found = micro_batches(lengths, world=1, max_rows=max_rows, pass_tokens=pass_tokens)
    passes = [workers[0] for workers in found]
    assert sorted(chain.from_iterable(passes)) == list(range(len(lengths)))
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    cuts = [
        [order[a:b] for a, b in zip((0, *inner), (*inner, len(order)), strict=True)]
        for count in range(len(order))
        for inner in combinations(range(1, len(order)), count)
    ]
    allowed = [one for one in cuts if all(len(rows) <= max_rows for rows in one)]
    best = min(cost(lengths, one, pass_tokens) for one in allowed)
    assert cost(lengths, passes, pass_tokens) == best


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    world=st.integers(1, 4),
    max_tokens=st.integers(1, 100),
    is_packed=st.booleans(),
)
def test_workers_share_the_examples_evenly_and_keep_the_bounds(
    lengths: list[int], world: int, max_tokens: int, is_packed: bool
):
    found = micro_batches(
        lengths, world=world, max_rows=3, max_tokens=max_tokens, pass_tokens=8, is_packed=is_packed
    )
    assert sorted(row for workers in found for rows in workers for row in rows) == list(range(len(lengths)))
    shares = [sum(len(workers[rank]) for workers in found) for rank in range(world)]
    assert max(shares) - min(shares) <= 1
    for workers in found:
        assert len(workers) == world
        for rows in workers:
            assert len(rows) <= 3
            sizes = [lengths[row] for row in rows]
            if len(rows) > 1:
                assert (sum(sizes) if is_packed else len(rows) * max(sizes)) <= max_tokens


@pytest.mark.parametrize(("pass_tokens", "expected"), [(8, [[0], [1, 2, 3]]), (1000, [[0, 1, 2, 3]])])
def test_one_long_example_goes_alone_where_a_pass_costs_less_than_its_padding(
    pass_tokens: int, expected: list[list[int]]
):
    found = micro_batches([90, 10, 10, 10], world=1, max_rows=8, pass_tokens=pass_tokens)
    assert [workers[0] for workers in found] == expected
