"""Two commands at once in one run folder, as processes on a real cluster: rows and weights never mix."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from local_ray import joining, local_ray

from cotray.config import RunConfig, load_config
from cotray.records import Rationale
from cotray.stages.generate import current_rationales
from cotray.stages.train import current_student
from cotray.storage.run_folder import RunFolder
from cotray.storage.verify import verify

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "jobs" / "configs" / "smoke.yaml"
SLOW = [
    "teacher.engine=fake",
    "teacher.batch_size=2",
    "teacher.engine_args.seconds_per_batch=0.5",
    "student.training.num_workers=1",
    "student.training.epochs=4",
    "student.training.patience=99",
]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with local_ray(num_cpus=16) as address:
        yield address


def start(address: str, verb: str, run_dir: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", f"jobs.{verb}", "-c", str(CONFIG), f"run_dir={run_dir}", *SLOW, *options]
    return subprocess.Popen(
        command,
        env=joining(address),
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=600)
    return process.returncode, output


def until_at_work(verb: str, run_dir: Path, process: subprocess.Popen[str]) -> None:
    while not (run_dir / ".leases" / f"{verb}.json").exists():
        assert process.poll() is None, end(process)
        time.sleep(0.05)


@contextlib.contextmanager
def held(process: subprocess.Popen[str], run_dir: Path) -> Iterator[None]:
    """The process is at work and gets no further inside, however slow the others are to start."""
    lock = FileLock(run_dir / ".leases" / "lock")
    with lock:  # so that the process is not stopped while it has the lock, for which the others would wait
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def config_of(run_dir: Path, *options: str) -> RunConfig:
    return load_config(CONFIG, [f"run_dir={run_dir}", *SLOW, *options])


@pytest.mark.parametrize(
    ("verb", "before", "changed"),
    [
        ("generate", ["prepare"], "method=greedy+counterfactual"),
        pytest.param(
            "train",
            ["prepare", "generate"],
            "student.training.learning_rate=0.1",
            marks=pytest.mark.long,
        ),
    ],
)
def test_a_second_command_equal_or_different_is_told_who_is_at_work_and_changes_nothing(
    address: str, tmp_path_factory: pytest.TempPathFactory, verb: str, before: list[str], changed: str
) -> None:
    run_dir = tmp_path_factory.getbasetemp() / "run"
    for earlier in before:
        code, output = end(start(address, earlier, run_dir))
        assert code == 0, output
    first = start(address, verb, run_dir)
    until_at_work(verb, run_dir, first)
    with held(first, run_dir):
        equal, different = (
            start(address, verb, run_dir),
            start(address, verb, run_dir, changed, "--overwrite"),
        )
        waiting = start(address, verb, run_dir, "--wait")
        for second in (equal, different):
            code, output = end(second)
            assert code == 1 and f"`{verb}` is being done by process {first.pid}" in output, output
        assert waiting.stdout is not None
        assert any("waiting: " in line for line in waiting.stdout)
    code, output = end(first)
    assert code == 0, output
    code, output = end(waiting)
    assert code == 0, output
    config, folder = config_of(run_dir), RunFolder(str(run_dir))
    current_rationales(config, folder)
    if verb == "train":
        current_student(config, folder)
    assert {row.method for row in folder.read_records("rationales", Rationale)} == {"contrast-wrong"}
    verify(config)


@pytest.mark.long
def test_a_run_whose_requests_another_run_makes_anew_ends_without_mixing_and_can_be_repeated(
    address: str, tmp_path: Path
) -> None:
    options = ["methods=[few-shot]", "simulator.mode=prompted", "simulator.model=random:llama"]
    first = start(address, "run", tmp_path / "run", *options)
    until_at_work("generate", tmp_path / "run" / "few-shot", first)
    with held(first, tmp_path / "run" / "few-shot"):
        code, output = end(start(address, "run", tmp_path / "run", *options, "seed=7", "--overwrite"))
    assert code == 1 and "at work" in output, output
    code, output = end(first)
    assert code in (0, 1), output
    code, output = end(start(address, "run", tmp_path / "run", *options, "seed=7", "--overwrite"))
    assert code == 0, output
    config = config_of(tmp_path / "run", *options, "seed=7").for_method("few-shot")
    folder = RunFolder(config.run_dir)
    current_student(config, folder)
    verify(config)
