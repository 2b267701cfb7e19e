"""Four workers: on two nodes, with weights in host memory, and two of them that go on alone.

One spawned group makes all measurements; llama has no dropout, so that the order of sums is all that differs.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from test_loop import CONFIG
from test_workers import FEW_SPLITS, gradient_errors, sharded, train_sharded, weights_of
from two_workers import group_of, spawn, whole

from cotray.errors import ConfigError
from cotray.training.fsdp import mesh_of_workers

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "hybrid": ("random:llama", {"sharding": "hybrid"}),
    "hybrid, gradients sharded": ("random:t5", {"sharding": "hybrid", "gradients": "sharded"}),
    "offloaded": ("random:t5", {"offload": "cpu"}),
    "all of it": ("random:llama", {"sharding": "hybrid", "offload": "cpu", "gradients": "sharded"}),
}
LLAMA = "random:llama"
OFTEN = CONFIG.model_copy(update={"checkpoint_minutes": 1e-9})


def trained(folder: Path, **options: Any) -> dict[str, Any]:
    """The steps that a run reports, and its weights."""
    steps: list[dict[str, float]] = []
    state = train_sharded(LLAMA, folder, report=steps.append, **options)
    weights = {key: whole(value) for key, value in weights_of(state).items()}
    return {"steps": [row for row in steps if "loss" in row], "weights": weights}


def share_of_weights(model: Any) -> float:
    """Of a model, what this worker keeps."""
    kept = [parameter.to_local().numel() for parameter in model.parameters()]
    return sum(kept) / sum(parameter.numel() for parameter in model.parameters())


def refusal_of_uneven_nodes(rank: int) -> str:
    """Three workers on one node and the fourth on another."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCAL_WORLD_SIZE", "3" if rank < 3 else "1")
        with pytest.raises(ConfigError) as caught:
            mesh_of_workers("hybrid")
    return str(caught.value)


def measure(rank: int, folder: Path) -> None:
    """Rank 0 leaves the results on disk; in the first group two nodes have two workers each."""
    results: dict[Any, Any] = {}
    os.environ["LOCAL_WORLD_SIZE"] = "2"
    with group_of(4, rank, folder):
        for case, (name, options) in CASES.items():
            results[case] = gradient_errors(name, **options, splits=FEW_SPLITS)
        results["refusal"] = refusal_of_uneven_nodes(rank)
        results["shares"] = {
            sharding: share_of_weights(sharded(LLAMA, sharding=sharding)) for sharding in ("full", "hybrid")
        }
        results["straight"] = trained(folder / "straight", config=OFTEN)
        results["hybrid and offloaded"] = trained(
            folder / "hybrid", config=OFTEN, sharding="hybrid", offload="cpu"
        )
        results["sharded over all"] = trained(folder / "all", restore_from=folder / "hybrid" / "3")
    if rank < 2:
        with group_of(2, rank, folder):
            results["on two"] = trained(folder / "two", restore_from=folder / "straight" / "3")
    if rank == 0:
        torch.save(results, folder / "results.pt")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Any]:
    path = tmp_path_factory.mktemp("four")
    spawn(measure, path, 4)
    return torch.load(path / "results.pt", weights_only=False)


@pytest.mark.parametrize("case", CASES)
def test_four_workers_on_two_nodes_give_the_gradient_of_one_process(results: Any, case: str) -> None:
    assert results[case].keys() == set(FEW_SPLITS)
    assert max(results[case].values()) < 1e-5


def test_a_worker_keeps_a_quarter_of_the_weights_or_its_share_of_its_nodes(results: Any) -> None:
    """Up to rows that four do not divide."""
    assert results["shares"] == pytest.approx({"full": 0.25, "hybrid": 0.5}, rel=0.02)


def test_nodes_with_different_numbers_of_workers_are_refused(results: Any) -> None:
    assert results["refusal"] == (
        "training.sharding=hybrid: one node has 3 of 4 workers, and others not as many; set "
        "training.sharding to full, or num_workers to a multiple of the GPUs of a node"
    )


def test_two_of_four_workers_go_on_with_the_same_batches_to_the_same_weights(results: Any) -> None:
    assert_goes_on(results["on two"], results["straight"])


def test_a_run_goes_on_in_another_arrangement_to_the_same_weights(results: Any) -> None:
    assert_goes_on(results["sharded over all"], results["hybrid and offloaded"])


def assert_goes_on(resumed: dict[str, Any], straight: dict[str, Any]) -> None:
    """From the third of six steps on, in the middle of the second of three epochs."""
    assert [row["step"] for row in straight["steps"]] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in resumed["steps"]] == [4, 5, 6]
    for one, two in zip(resumed["steps"], straight["steps"][3:], strict=True):
        assert one["num_tokens"] == two["num_tokens"]
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-5)
    for key, expected in straight["weights"].items():
        assert (resumed["weights"][key] - expected).norm() < 1e-5 * expected.norm(), key
