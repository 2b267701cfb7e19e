"""The tutorial as a reader pastes it, from the first block to the last, on tiny random models."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from local_ray import joining, local_ray
from pages import ROOT, blocks

from cluster.processes import free_ports

pytestmark = pytest.mark.ray

TUTORIAL = ROOT / "docs/tutorial.md"
SECONDS = 1500
TINY = {
    "teacher: {model: embedded:smollm2-135m-instruct": "teacher: {num_demonstrations: 1, model: random:llama",
    "student: {model: embedded:smollm2-135m-instruct": "student: {model: random:qwen2",
    "simulator: {model: embedded:smollm2-135m-instruct, num_layers: 4": "simulator: {model: random:t5",
    "max_length: 256": "max_length: 2048",
    "max_new_tokens: 40": "max_new_tokens: 16",
    "epochs: 3": "epochs: 1",
    "epochs: 2": "epochs: 1",
}
"""Models of a few thousand weights, whose tokens are bytes, in place of SmolLM2."""


def script(port: int) -> str:
    """All shell blocks of the page, which end at the first command that fails."""
    text = "".join(block.text for block in blocks(TUTORIAL) if block.language == "bash")
    for real, tiny in TINY.items():
        assert real in text
        text = text.replace(real, tiny)
    assert "8000" in text
    return "set -euo pipefail\n" + text.replace("8000", str(port))


def pasted(text: str, folder: Path, ray_address: str) -> str:
    """What the script prints, errors included; it and everything that it started has ended."""
    environment = joining(ray_address) | {
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    for name in ("jobs", "cotray"):
        (folder / name).symlink_to(ROOT / name)
    log = folder / "output.txt"
    with log.open("w") as output:
        shell = subprocess.Popen(
            ["bash", "-c", text],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            code = shell.wait(SECONDS)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
    assert code == 0, log.read_text()
    return log.read_text()


@pytest.mark.timeout(SECONDS + 120)
def test_the_tutorial_goes_from_questions_to_a_served_student(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with local_ray(num_cpus=8) as address:
        output = pasted(script(port), tmp_path, address)
    assert "24 in, 23 out, 1 dead letters" in output
    assert "no answer among the choices" in output
    assert re.search(r"35 of 35 requests", output)
    figures = json.loads((tmp_path / "runs/mine/report.json").read_text())
    assert figures["methods"][0]["accuracy"]["n"] == 8
    assert (tmp_path / "runs/mine/report.html").stat().st_size > 1000
    answers = [json.loads(line) for line in output.splitlines() if line.startswith('{"id"')]
    assert len(answers) == 2 and all(answer["answer"] in ("yes", "no") for answer in answers)
    assert "stopped" in output.splitlines()[-1]
