"""The simulated stage beside values worked out by hand, a naive loop and renewal theory."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotray.config import parse_config
from cotray.planning.fleet import Nodes, simulate
from cotray.planning.pool_work import Rows, Work, generate_work, pool_work
from cotray.planning.replica_threads import after, first_done
from cotray.seeds import seeded
from cotray.storage.work_units import units_of


def outcome(
    units: list[int], nodes: Nodes, replicas: int = 1, *, seconds: float = 10.0, run: int = 0, **work
):
    return simulate(Work(tuple(units), seconds, **work), nodes, num_replicas=replicas, seed=7, run=run)


def test_one_replica_takes_its_start_its_load_and_every_batch() -> None:
    nodes = Nodes(start_s=360, load_s=180)
    assert outcome([1] * 6, nodes).seconds == 360 + 180 + 6 * 10
    assert outcome([3, 3], nodes, setup_s=5, seal_s=2).seconds == 5 + 360 + 180 + 6 * 10 + 2


@pytest.mark.parametrize("replicas", [1, 2, 4, 8])
def test_equal_units_are_divided_evenly(replicas: int) -> None:
    assert outcome([1] * 16, Nodes(start_s=30), replicas).seconds == 30 + 16 / replicas * 10


def test_a_unit_is_never_divided_among_replicas() -> None:
    assert outcome([10], Nodes(), replicas=4).seconds == 100


def test_the_second_unit_that_a_replica_holds_is_not_given_to_an_idle_one() -> None:
    # Both replicas take four batches, the first also the third unit: it decodes eight, the other waits.
    done = outcome([4, 4, 4], Nodes(idle_s=20), replicas=2)
    assert done.seconds == 80
    # From 40 s the second has nothing to do and leaves after 20 s; so does the first after 80.
    assert done.paid == {"on-demand": 100 + 60}
    assert done.spent == {"startup": 0, "working": 120, "idle": 40}


def test_a_node_with_several_replicas_is_paid_until_the_last_leaves() -> None:
    done = outcome([1, 1, 1], Nodes(gpus=8, replicas=2, start_s=100, load_s=50, idle_s=60), replicas=2)
    # 100 start, 50 load, two batches of 10 one after the other, 60 idle: 8 GPUs each.
    assert done.seconds == 170
    assert done.paid == {"on-demand": 8 * (100 + 50 + 20 + 60)}
    assert done.spent["startup"] == 8 * 150 and done.spent["working"] == 3 * 10 * 4


def test_without_interruptions_spot_takes_as_long_as_on_demand() -> None:
    units, nodes = [2] * 20, Nodes(start_s=30, start_p90_s=60, load_s=10)
    fleets = [replace(nodes, market=market, return_s=900) for market in ("spot", "spot-first", "on-demand")]
    assert len({outcome(units, fleet, 3).seconds for fleet in fleets}) == 1
    assert outcome(units, fleets[0], 3).paid.keys() == {"spot"}


@pytest.mark.parametrize(("start", "load", "return_s"), [(60, 30, 0), (40, 20, 300)])
def test_interruptions_cost_what_renewal_theory_says(start, load, return_s) -> None:
    """From a node's first second: loading L and each batch T succeed with exp(-rate * length), and a failure
    costs the node that comes instead. E[time of a phase x] = (exp(rate x) - 1) (1 / rate + cost of failure).
    """
    per_hour, batches, each = 40, 50, 20.0
    rate = per_hour / 3600
    nodes = Nodes("spot", start_s=start, load_s=load, interruptions_per_hour=per_hour, return_s=return_s)
    again = start + return_s
    loaded = math.expm1(rate * load) * (1 / rate + again)
    batch = math.expm1(rate * each) * (1 / rate + again + loaded)
    times = [outcome([5] * (batches // 5), nodes, seconds=each, run=run).seconds for run in range(400)]
    error = statistics.stdev(times) / math.sqrt(len(times))
    assert statistics.fmean(times) == pytest.approx(start + loaded + batches * batch, abs=3 * error)
    assert error < 0.05 * statistics.fmean(times)


def test_on_demand_nodes_in_place_of_lost_ones_stay() -> None:
    """Each spot node is lost once at most: the expected cost of losses is below that of one per node."""
    nodes = Nodes("spot-first", start_s=60, load_s=30, interruptions_per_hour=1e6)
    done = outcome([5] * 8, nodes, replicas=4)
    assert done.num_interruptions == 4
    # Lost within milliseconds after 60 s; 60 s later four nodes load for 30 s and make ten batches each.
    assert done.seconds == pytest.approx(60 + 60 + 30 + 100, abs=0.1)
    assert done.paid["spot"] == pytest.approx(4 * 60, abs=0.1)
    assert done.paid["on-demand"] == pytest.approx(4 * (60 + 30 + 100 + 60), abs=0.1)
    assert done.spent["lost"] == pytest.approx(4 * (60 + 30), abs=0.1)


def test_units_of_nodes_that_never_come_back_are_given_to_others() -> None:
    nodes = Nodes("spot", start_s=30, load_s=10, interruptions_per_hour=4, return_s=1e9, idle_s=1e9)
    runs = [outcome([5] * 64, nodes, replicas=16, run=run) for run in range(20)]
    assert sum(run.num_interruptions for run in runs) > 10
    # 20 batches each without a loss: 240 s. Waiting a minute and loading again may come a few times.
    assert max(run.seconds for run in runs) < 1000


@pytest.mark.parametrize("run", range(10))
def test_what_is_paid_for_is_start_work_loss_and_idle_time(run: int) -> None:
    nodes = Nodes("spot", 60, 90, 30, interruptions_per_hour=20, return_s=60, gpus=4, replicas=2)
    done = outcome([3] * 100, nodes, replicas=8, run=run)
    assert done.num_interruptions > 0
    assert sum(done.paid.values()) == pytest.approx(sum(done.spent.values()))
    assert done.spent["working"] == pytest.approx(300 * 10 * 2)
    assert min(done.spent.values()) >= 0


def test_the_same_seed_gives_the_same_run_and_another_another() -> None:
    nodes = Nodes("spot", 60, 90, 30, interruptions_per_hour=5)
    one, two, other = (outcome([3] * 100, nodes, replicas=4, run=run) for run in (1, 1, 2))
    assert one == two and one != other


def test_one_node_in_ten_starts_later_than_the_given_time() -> None:
    nodes, rng = Nodes(start_s=360, start_p90_s=540), seeded(0, "starts")
    starts = [nodes.draw_start_s(rng) for _ in range(20_000)]
    assert sum(start > 540 for start in starts) / len(starts) == pytest.approx(0.1, abs=0.01)
    assert statistics.median(starts) == pytest.approx(360, rel=0.02)


def naive_turns(units: list[int], stop_when_done: bool, limit: int) -> tuple[int, list[int]]:
    """Batch after batch, round robin; the next turn comes first in what is returned."""
    left, decoded = list(units), 0
    while decoded < limit:
        unit = left.pop(0) - 1
        decoded += 1
        if unit:
            left.append(unit)
        elif stop_when_done:
            break
    return decoded, left


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_turns_are_those_of_a_naive_round_robin(units: list[int]) -> None:
    decoded, left = naive_turns(units, True, 10_000)
    place, num_batches = first_done(units)
    assert num_batches == decoded and after(units, num_batches) == left
    assert units[place] == min(units)
    for limit in range(decoded):
        assert after(units, limit) == naive_turns(units, False, limit)[1]


def test_rows_become_the_units_of_the_pool() -> None:
    config = parse_config({"method": "contrast-wrong", "teacher": {"batch_size": 128}})
    rows = Rows.of(config, 10_240)
    # 0.6 of the questions have a counterfactual request: 16,384 rows, eight shards of 2,048. Of each 1,280
    # rows are wanted, which is ten batches of 128; the units of the other six are empty.
    assert rows.in_shards == 16_384
    args = {"tokens_per_s": 100.0, "tokens_per_rationale": 20.0, "num_replicas": 4, "num_nodes": 2}
    work = generate_work(config, rows, **args)
    # Four replicas hold two units each. Half of their share of 128 batches is 8; of the 120 that are left 7,
    # of which two are wanted; the last batch of the shard is not.
    assert work.units[:3] == (8, 2, 7)
    assert sum(work.units) == 80 and work.units[-9:] == (1,) * 9
    assert work.replica_s == pytest.approx(10_240 * 20 / 100)
    both = generate_work(parse_config({"teacher": {"batch_size": 128}}), rows, **args)
    assert both.units[:3] == (8, 7, 1) and sum(both.units) == 128
    # 8 shards are sealed two at a time on each of two nodes: two rounds.
    assert both.seal_s == pytest.approx(0.2)


def test_many_rows_make_a_unit_of_each_shard() -> None:
    many = {"replica_s": 1000.0, "num_replicas": 8192, "num_nodes": 1}
    work = pool_work(1_024_000, 1_024_000, batch_size=100, **many)
    # 500 shards of 21 batches (the last of 48 rows) are 10,500, in steps of ceil(10,500 / 4,096) = 3.
    assert work.units == (3,) * 3500
    large = pool_work(20_480_000, 20_480_000, batch_size=128, **many)
    # 160,000 batches in steps of 40, but no unit is longer than a shard's 16 batches.
    assert large.units == (16,) * 10_000


def test_units_cover_every_batch_once() -> None:
    units = units_of({"a": 300, "b": 0, "c": 1}, 128, num_takers=1)
    assert [tuple(unit) for unit in units] == [("a", 0, 2), ("a", 2, 3), ("c", 0, 1)]


@given(st.lists(st.integers(0, 5000), max_size=9), st.integers(1, 300), st.integers(1, 40))
def test_no_unit_is_more_than_eight_batches_or_half_of_what_each_taker_would_still_get(
    sizes: list[int], batch_size: int, num_takers: int
) -> None:
    units = units_of({str(n): size for n, size in enumerate(sizes)}, batch_size, num_takers)
    left = sum(-(-size // batch_size) for size in sizes)
    least = max(1, -(-left // 4096))
    for unit in units:
        assert unit.last - unit.first <= max(least, min(left / num_takers / 2, 8))
        left -= unit.last - unit.first
    assert left == 0
