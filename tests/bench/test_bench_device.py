"""The script for one device, at tiny shapes on the CPU and without the libraries that need not be there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
WITHOUT = (
    "ray",
    "vllm",
    "pydantic",
    "fastapi",
    "boto3",
    "openai",
    "nltk",
    "gguf",
    "plotly",
    "simpy",
    "datasets",
)
SCRIPT = f"""
import sys

class Hiding:
    # Finds what the finder behind it finds, except for what is not there.

    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {WITHOUT} else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
from cotray.commands.bench import main
sys.argv = ["bench", "device", *sys.argv[1:]]
sys.exit(main())
"""
PARTS = {
    "limits",
    "equality",
    "coupling, 4 pairs x 512",
    "teacher tiny, 2 pairs",
    "teacher tiny, 4 pairs",
    "training, float32",
    "training, bfloat16",
    "training, bfloat16, recomputed activations",
}


def run(folder: Path, *options: str) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    target = folder / "device.json"
    command = [sys.executable, "-c", SCRIPT, "--shapes", "tiny", "--json", str(target), *options]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert target.is_file(), result.stdout + result.stderr
    return result, json.loads(target.read_text())


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    result, figures = run(tmp_path_factory.mktemp("device"))
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout, figures


def test_every_part_runs_without_the_libraries_of_the_cluster(whole_run: tuple[str, dict[str, Any]]) -> None:
    printed, figures = whole_run
    assert figures.keys() == PARTS
    assert not any("error" in part or "skipped" in part for part in figures.values())
    assert all(f"\n| {name} |" in printed for name in PARTS)


def test_neither_batches_nor_caches_change_a_token(whole_run: tuple[str, dict[str, Any]]) -> None:
    equality = whole_run[1]["equality"]
    assert equality["batched_equals_alone"] == equality["equals_cpu"] == equality["rationales"] == 6
    assert equality["batched_equals_loop"] == equality["rationales_in_loop"] == 3
    assert equality["tokens"] == equality["tokens_equal_cpu"] > 0


def test_the_teacher_is_measured_beside_its_limits(whole_run: tuple[str, dict[str, Any]]) -> None:
    for name in ("teacher tiny, 2 pairs", "teacher tiny, 4 pairs"):
        figures = whole_run[1][name]
        assert all(figures[f"{kind}_tokens_per_s"] > 0 for kind in ("greedy", "two_pass", "contrast"))
        limits = [figures[f"share_of_{limit}_limit"] for limit in ("two_pass", "bandwidth", "arithmetic")]
        assert all(share > 0 for share in limits)
    coupling = whole_run[1]["coupling, 4 pairs x 512"]
    assert coupling["share_of_copy_limit"] > 0 and coupling["processor_share_of_copy_limit"] > 0


def test_losses_fall_alike_in_every_precision(whole_run: tuple[str, dict[str, Any]]) -> None:
    losses = whole_run[1]["training, float32"]["losses"]
    assert losses == sorted(losses, reverse=True) and losses[0] != losses[-1]
    for name in ("training, bfloat16", "training, bfloat16, recomputed activations"):
        assert all(abs(a - b) < 0.01 * a for a, b in zip(losses, whole_run[1][name]["losses"], strict=True))


def test_what_no_time_is_left_for_is_said_to_be_skipped(tmp_path: Path) -> None:
    result, figures = run(tmp_path, "--budget-s", "0")
    assert result.returncode == 1
    assert figures.keys() == PARTS
    assert all("budget of 0 s" in part["skipped"] for part in figures.values())
    assert all(f"SKIPPED {name}" in result.stderr for name in PARTS)
