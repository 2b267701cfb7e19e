"""The overlays' RayClusters scale as they say: on Ray's own autoscaler, with fake nodes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from manifests.rendering import OVERLAYS, ROOT

pytestmark = pytest.mark.ray
TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "overlay",
    [pytest.param(name, marks=pytest.mark.long if name == "local" else ()) for name in OVERLAYS],
)
def test_each_part_of_a_run_gets_nodes_of_its_group_spot_first_and_all_go_when_idle(overlay: str) -> None:
    command = [sys.executable, str(TESTS / "support/scaling.py"), overlay]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(TESTS / "k8s")])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    teachers = seen.pop("teachers")
    expected = {
        "before": [],
        "driver": ["data on-demand"],
        "trainers": ["trainer on-demand"] * 2,
        "after": [],
    }
    if overlay == "spot":
        # Two nodes of a group at most here: two teachers fill the spot group, the next is on demand.
        assert teachers == ["teacher spot"] * 2
        assert seen == {**expected, "overflow": ["teacher on-demand"]}
    else:
        # Of two CPUs and no GPU, or eight and one, on two nodes.
        assert teachers == ["teacher on-demand"] * (4 if overlay == "local" else 2)
        assert seen == expected
