"""Plans beside values worked out by hand, and the command line of `python -m jobs.plan`."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cotray.bench.plan import Measured, Setting, planned_seconds
from cotray.commands.plan import main
from cotray.config import RunConfig, parse_config
from cotray.errors import ConfigError
from cotray.planning.fleet import Nodes
from cotray.planning.measured_rates import teacher_rates
from cotray.planning.plan import estimate, most_replicas, quantile, smallest_fleet
from cotray.planning.run_simulation import Assumptions, Rates, included, on_nodes, simulate_runs

CONFIG = """
method: contrast-wrong+counterfactual
teacher: {batch_size: 128, num_gpus: 1, replicas: {min: 1, max: 4}}
student: {training: {num_workers: 4, num_gpus: 1, epochs: 3, max_length: 256}}
simulator: {training: {num_workers: 2, num_gpus: 1, epochs: 2}}
scoring: {num_gpus: 1, replicas: {min: 1, max: 2}}
"""


def config(**teacher: Any) -> RunConfig:
    return parse_config({"teacher": {"batch_size": 128, "num_gpus": 1, **teacher}})


def assumptions(**changes: Any) -> Assumptions:
    """10,240 questions are 16,384 requests in 8 shards of 16 batches; a batch of 128 takes 25.6 s."""
    nodes = Nodes("on-demand", start_s=300, load_s=100, idle_s=60)
    prices = {"spot": 1.0, "on-demand": 3.0}
    return replace(Assumptions(config(), 10_240, Rates(100.0, 20.0), nodes, prices, num_runs=5), **changes)


def seal_s(num_nodes: int) -> float:
    return math.ceil(8 / (2 * num_nodes)) * 0.1


@pytest.mark.parametrize("gpus", [1, 2, 8])
def test_fleet_without_chance_takes_the_closed_form(gpus: int) -> None:
    one = estimate(assumptions(), gpus)
    seconds = 300 + 100 + 128 / gpus * 25.6 + seal_s(gpus)
    assert one.hours_p50 == one.hours_p90 == pytest.approx(seconds / 3600)
    # All nodes start at once, and leave a minute after the last batch; sealing needs none of them.
    gpu_hours = gpus * (300 + 100 + 128 / gpus * 25.6 + 60) / 3600
    assert one.gpu_hours == pytest.approx(gpu_hours)
    assert one.cost_p50 == one.cost_p90 == pytest.approx(3 * gpu_hours)
    assert one.shares["working"] == pytest.approx(128 * 25.6 / 3600 / gpu_hours)
    assert one.shares["startup"] == pytest.approx(gpus * 400 / 3600 / gpu_hours)
    assert sum(one.shares.values()) == pytest.approx(1)


def test_spot_and_on_demand_hours_have_prices_of_their_own() -> None:
    """Every spot node is lost as it comes and replaced on demand, at once in this case."""
    nodes = Nodes("spot-first", start_s=300, load_s=100, idle_s=60, interruptions_per_hour=1e7)
    one = estimate(assumptions(nodes=nodes), 2)
    cost = 2 * (300 * 1 + (300 + 100 + 64 * 25.6 + 60) * 3) / 3600
    assert one.cost_p50 == pytest.approx(cost, rel=1e-3)
    assert estimate(assumptions(nodes=nodes, prices={"spot": 1.0}), 2).cost_p50 is None


def test_more_draws_and_fewer_kinds_change_the_work_in_proportion() -> None:
    alone = replace(
        assumptions(), config=parse_config({"method": "contrast-wrong", "teacher": {"num_gpus": 1}})
    )
    drawn = replace(assumptions(), config=config(decoding={"num_samples": 3}))
    working = [
        simulate_runs(each, 1)[0].stages["generate"].spent["working"]
        for each in (assumptions(), alone, drawn)
    ]
    assert working == pytest.approx([16_384 * 0.2, 10_240 * 0.2, 3 * 16_384 * 0.2])


def test_training_and_scoring_take_their_closed_forms() -> None:
    rates = Rates(
        100.0,
        20.0,
        train_tokens_per_s=1000.0,
        tokens_per_example=50.0,
        answers_per_s=10.0,
        simulator_tokens_per_s=2000.0,
        simulations_per_s=16.0,
    )
    tree = {
        "teacher": {"batch_size": 128, "num_gpus": 1},
        "student": {"training": {"num_workers": 4, "num_gpus": 1, "epochs": 3}},
        "simulator": {"training": {"num_workers": 2, "num_gpus": 1, "epochs": 2}},
        "scoring": {"num_gpus": 1, "replicas": {"max": 2}},
    }
    given = assumptions(config=parse_config(tree), rates=rates)
    (run, *_) = simulate_runs(given, 8)
    # 0.6 of 10,240 questions, each with a counterfactual, and a third of the cost of 0.15 for the dev loss.
    examples = 10_240 * (2 * 0.6 + 0.15 / 3)
    assert run.stages["train"].seconds == pytest.approx(400 + 3 * examples * 50 / 1000 / 4)
    assert run.stages["train"].paid["on-demand"] == pytest.approx(4 * (run.stages["train"].seconds + 60))
    # 8 shards of 16 batches, of which 10 have factual rows: 80 batches for two replicas.
    assert run.stages["answers"].seconds == pytest.approx(400 + 10_240 / 10 / 2 + seal_s(2))
    one_epoch = 10_240 * (0.6 + 0.15 / 3) * 50 / 2000 / 2
    assert run.stages["simulator"].seconds == pytest.approx(400 + 2 * one_epoch)
    assert run.stages["simulations"].seconds == pytest.approx(
        400 + 0.25 * 10_240 / 16 / 2 + seal_s(2), rel=0.05
    )
    assert run.hours == pytest.approx(sum(stage.seconds for stage in run.stages.values()) / 3600)
    assert list(run.stages) == ["generate", "train", "answers", "simulator", "simulations"]


def test_assessing_takes_the_rationales_of_its_splits_and_is_named_where_it_is_part_of_the_run() -> None:
    tree = {
        "teacher": {"batch_size": 128, "num_gpus": 1, "decoding": {"num_samples": 3}},
        "assessing": {"measures": ["surface"], "num_gpus": 1, "replicas": {"max": 2}},
    }
    some = {"assessing": tree["assessing"] | {"splits": ["test", "dev"]}}
    seconds = []
    for config in (parse_config(tree), parse_config(tree | some)):
        given = assumptions(config=config, rates=Rates(100.0, 20.0, assessments_per_s=8.0))
        (run, *_) = simulate_runs(given, 8)
        assert list(run.stages) == ["generate", "assess"] and included(given)["assess"]
        seconds.append(run.stages["assess"].spent["working"])
    # Three draws of 10,240 factual and of 0.6 counterfactual requests; then 0.4 of the factual ones alone.
    assert seconds == pytest.approx([3 * 16_384 / 8, 3 * 4096 / 8])
    without = assumptions(config=parse_config(tree))
    assert included(without)["assess"] is False and list(simulate_runs(without, 1)[0].stages) == ["generate"]
    assert "assess" not in included(assumptions())


def test_stage_without_a_rate_is_left_out() -> None:
    assert list(simulate_runs(assumptions(), 1)[0].stages) == ["generate"]


def test_smallest_fleet_is_the_first_of_all_that_meets_the_deadline() -> None:
    nodes = Nodes("spot", 300, 450, 100, interruptions_per_hour=0.5, return_s=600)
    given = assumptions(nodes=nodes)
    found = smallest_fleet(given, 0.5)
    by_size = {gpus: estimate(given, gpus).hours_p90 for gpus in range(1, 12)}
    assert found.gpus == next(gpus for gpus, hours in by_size.items() if hours <= 0.5)


def test_deadline_that_no_fleet_meets_names_the_best_and_the_cause() -> None:
    with pytest.raises(
        ConfigError, match=r"no fleet meets 0\.1 h .* best has .* GPUs and takes 0\.1[0-9] h"
    ) as caught:
        smallest_fleet(assumptions(), 0.1)
    assert "starting nodes and models" in str(caught.value) and "no unit of work" in str(caught.value)


def test_more_replicas_than_units_have_nothing_to_do() -> None:
    # With so many replicas batches shrink to single requests: 16,384 of them in 8 shards; 4,096 units of 4.
    assert most_replicas(assumptions()) == 4096
    assert estimate(assumptions(num_runs=1), 5000).replicas == 4096


def test_ninety_of_a_hundred_values_do_not_exceed_the_quantile() -> None:
    assert quantile(range(1, 101), 0.9) == 90
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([1.0], 0.9) == 1.0


def test_replicas_share_a_node_as_far_as_its_gpus_go() -> None:
    assert on_nodes(Nodes(gpus=8), 3, key="teacher.num_gpus").replicas == 2
    assert on_nodes(Nodes(gpus=1), 0.25, key="teacher.num_gpus").replicas == 4
    with pytest.raises(ConfigError, match=r"teacher.num_gpus=4: a node has 2; raise --gpus-per-node"):
        on_nodes(Nodes(gpus=2), 4, key="teacher.num_gpus")
    with pytest.raises(ConfigError, match=r"teacher.num_gpus=0: .*add teacher.num_gpus=1"):
        on_nodes(Nodes(), 0, key="teacher.num_gpus")


def test_rates_come_from_the_bench_of_the_engine_in_use(tmp_path: Path) -> None:
    bench = tmp_path / "bench.json"
    bench.write_text(
        '{"contrast_tokens_per_s": 45.0, "greedy_tokens_per_s": 53.0, "tokens_per_rationale": 17.5, '
        '"vllm_tokens_per_s": 119.0, "tokens_equal": true}'
    )
    assert teacher_rates(config(), str(bench)) == (45.0, 17.5)
    assert teacher_rates(config(engine="vllm"), str(bench)) == (119.0, 17.5)
    greedy = parse_config({"method": "greedy"})
    assert teacher_rates(greedy, str(bench)) == (53.0, 17.5)
    assert teacher_rates(config(), str(bench), tokens_per_s=9.0, tokens_per_rationale=3.0) == (9.0, 3.0)
    # Nothing says how long rationales are: as long as they may be.
    assert teacher_rates(config(), None, tokens_per_s=9.0) == (9.0, 128.0)


def test_what_the_bench_compares_is_the_closed_form_where_nothing_is_killed() -> None:
    measured = Measured(start_s={2: 4.0}, restart_s=1.5, batch_s=1.25, end_s=0.5)
    assert set(planned_seconds(Setting(2, 0, 20), measured)) == {4.0 + 10 * 1.25 + 0.5}


@pytest.fixture
def yaml(tmp_path: Path) -> str:
    (tmp_path / "c.yaml").write_text(CONFIG)
    return str(tmp_path / "c.yaml")


BASE = ["--rows", "10240", "--teacher-tokens-per-s", "100", "--tokens-per-rationale", "20", "--runs", "5"]


def test_command_prints_the_table_the_assumptions_and_what_is_left_out(yaml, capsys) -> None:
    assert main(["-c", yaml, *BASE, "--gpus", "8,2", "--price-spot", "2"]) == 0
    shown = capsys.readouterr().out
    assert "10,240 questions, contrast-wrong+counterfactual: 16,384 requests" in shown
    rows = [line.split() for line in shown.splitlines() if line.strip().startswith(("2 ", "8 "))]
    assert [row[:2] for row in rows] == [["2", "2"], ["8", "8"]]
    assert "assumed:" in shown and "5.0% of the spot nodes are taken away per hour" in shown
    assert "not included, because no rate is given: train (--train-tokens-per-s), answers" in shown


def test_json_is_flat_and_the_same_for_the_same_seed_and_any_order_of_options(yaml, capsys) -> None:
    options = [["-c", yaml], *([BASE[i], BASE[i + 1]] for i in range(0, len(BASE), 2)), ["--gpus", "2,8"]]
    answers = []
    for order in (options, options[::-1]):
        assert main([*(word for option in order for word in option), "--json", "-"]) == 0
        answers.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
    assert answers[0] == answers[1]
    figures = answers[0]
    assert all(not isinstance(value, dict | list) for value in figures.values())
    assert {"gpus_2_hours_p50", "gpus_8_hours_p90", "gpus_8_share_lost", "gpus_2_hours_generate"} <= set(
        figures
    )
    assert figures["gpus_2_cost_p50"] is None and figures["includes_train"] is False
    assert main(["-c", yaml, *BASE, "--gpus", "2,8", "--json", "-", "seed=1"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) != figures


def test_deadline_gives_the_smallest_fleet_a_file_and_a_plot(yaml, tmp_path: Path, capsys) -> None:
    plot, result = tmp_path / "plan.png", tmp_path / "plan.json"
    options = ["--deadline-hours", "0.5", "--market", "on-demand", "--plot", str(plot), "--json", str(result)]
    assert main(["-c", yaml, *BASE, "--node-start-p90-min", "0", *options]) == 0
    figures = json.loads(result.read_text())
    # 540 s of start leave 1,260 for 3,277 s of decoding: three GPUs.
    assert figures["smallest_gpus"] == 3 and figures["deadline_hours"] == 0.5
    assert "smallest fleet that is done within 0.5 h in 90% of the runs: 3 GPUs" in capsys.readouterr().out
    assert plot.read_bytes().startswith(b"\x89PNG") and plot.stat().st_size > 10_000


def test_without_sizes_the_fleet_is_that_of_the_configuration(yaml, capsys) -> None:
    assert main(["-c", yaml, *BASE, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["gpus_4_replicas"] == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rows", "0"], "--rows 0: must be above 0"),
        (["--rows", "-5"], "--rows -5: must be above 0"),
        (["--deadline-hours", "0"], "--deadline-hours 0: must be above 0"),
        (["--deadline-hours", "0.01"], "no fleet meets 0.01 h"),
        (["--price-spot", "-1"], "--price-spot -1: must be 0 or more"),
        (["--interruptions-per-hour", "nan"], "--interruptions-per-hour nan: must be 0 or more"),
        (["--teacher-tokens-per-s", "0"], "--teacher-tokens-per-s=0: must be above 0"),
        (["--gpus", "8,many"], "--gpus 8,many: give numbers above 0"),
        (["--bench", "nowhere.json"], "nowhere.json: no such file; measure it with"),
        (["--plot", "plan.gif"], "--plot plan.gif: give a name that ends with .png, .svg, .pdf"),
        (["--plot", "/no/such/folder/plan.png"], "no such folder"),
        (["teacher.num_gpus=0"], "teacher.num_gpus=0: GPUs are what is planned"),
        (["teacher.num_gpu=1"], "unknown key 'teacher.num_gpu'"),
        (
            ["--train-tokens-per-s", "9", "student.training.num_gpus=0"],
            "student.training.num_gpus=0: GPUs are what is planned",
        ),
        (
            ["teacher.pools=[{num_gpus: 1}, {num_gpus: 2}]"],
            "teacher.pools: replicas of [1.0, 2.0] GPUs; plan one kind at a time",
        ),
        (["--answers-per-s", "9", "scoring.num_gpus=0"], "scoring.num_gpus=0: GPUs are what is planned"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(yaml, capsys, options, message) -> None:
    assert main(["-c", yaml, *BASE, *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("cotray: ") and len(error.splitlines()) == 1
    assert message in error


def test_missing_rate_says_how_to_measure_it(yaml, tmp_path: Path, capsys) -> None:
    assert main(["-c", yaml, "--rows", "100"]) == 2
    assert (
        "no rate is given for teacher.engine=transformers: measure it with `cotray bench"
        in capsys.readouterr().err
    )
    bench = tmp_path / "bench.json"
    bench.write_text('{"vllm_tokens_per_s": 3}')
    assert main(["-c", yaml, "--rows", "100", "--bench", str(bench)]) == 2
    assert "has no rate of teacher.engine=transformers" in capsys.readouterr().err
    bench.write_text("{")
    assert main(["-c", yaml, "--rows", "100", "--bench", str(bench)]) == 2
    assert "not a bench result" in capsys.readouterr().err


def test_a_teacher_over_an_api_has_no_gpus_to_plan() -> None:
    endpoint = {"base_url": "http://localhost/v1"}
    teacher = {"engine": "openai", "model": "m", "endpoint": endpoint}
    with pytest.raises(ConfigError, match="needs no GPUs to plan"):
        teacher_rates(parse_config({"teacher": teacher}), None, tokens_per_s=9.0)
