"""The whole pipeline on a real cluster: `ray start --head`, `ray job submit`, then the same command again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cotray.config import load_config
from cotray.data.store import STAGES, RunFolder
from cotray.records import Rationale, Simulation, StudentAnswer, TeacherRequest

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parent.parent
METHOD = "contrast-wrong+counterfactual"


@dataclass(frozen=True)
class RayHead:
    dashboard: str
    address: str
    environment: dict[str, str]
    folder: Path


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    """A head node of our own; the process group started here, and only that, is ended after."""
    folder = Path(tempfile.mkdtemp(prefix="ct-", dir="/tmp"))
    gcs, dashboard, client, agent, metrics = free_ports(5)
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "disabled",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TMPDIR": str(folder),
    }
    environment.pop("RAY_ADDRESS", None)
    command = [
        *("ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={gcs}"),
        *("--num-cpus=8", "--object-store-memory=200000000", f"--temp-dir={folder}/ray"),
        *(
            "--dashboard-host=127.0.0.1",
            f"--dashboard-port={dashboard}",
            f"--ray-client-server-port={client}",
        ),
        *(
            f"--dashboard-agent-listen-port={agent}",
            f"--metrics-export-port={metrics}",
            "--disable-usage-stats",
        ),
    ]
    with (folder / "head.log").open("wb") as log:
        process = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
    head = RayHead(f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{gcs}", environment, folder)
    try:
        wait_for_jobs_api(head, process)
        yield head
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def wait_for_jobs_api(head: RayHead, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert process.poll() is None, (head.folder / "head.log").read_text()
        try:
            urllib.request.urlopen(f"{head.dashboard}/api/jobs/", timeout=5).close()
            return
        except OSError:
            time.sleep(0.5)
    raise AssertionError("the dashboard did not come up: " + (head.folder / "head.log").read_text())


def run(head: RayHead, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=head.environment, cwd=ROOT, capture_output=True, text=True, timeout=400
    )


def job(head: RayHead, verb: str, *overrides: str) -> subprocess.CompletedProcess[str]:
    """The verb from this process's side, joining the running cluster."""
    environment = head.environment | {"RAY_ADDRESS": head.address}
    command = [sys.executable, "-m", f"jobs.{verb}", "-c", "jobs/configs/smoke.yaml", *overrides]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=400)


def tail(result: subprocess.CompletedProcess[str]) -> str:
    return "\n".join((result.stdout + result.stderr).splitlines()[-30:])


@pytest.fixture(scope="module")
def finished(head: RayHead) -> Path:
    """The smoke configuration, submitted as a job."""
    run_dir = head.folder / "smoke"
    result = run(
        head,
        *("ray", "job", "submit", "--address", head.dashboard, "--working-dir", ".", "--"),
        *("python", "-m", "jobs.run", "-c", "jobs/configs/smoke.yaml", f"run_dir={run_dir}"),
    )
    assert result.returncode == 0, tail(result)
    return run_dir


def test_submitted_job_leaves_every_named_part_of_the_run_folder(finished: Path) -> None:
    assert {p.name for p in finished.iterdir()} == {METHOD, "config.yaml", "report.json", "report.html"}
    method = finished / METHOD
    assert {p.name for p in method.iterdir()} - {"dead_letter"} == {*STAGES, "config.yaml", "metrics.jsonl"}
    for stage in STAGES:
        assert (method / stage / "manifest.json").is_file() and not (method / stage / "started.json").exists()
    for model in ("student", "simulator"):
        assert (method / model / "model.safetensors").is_file()
    resolved = load_config(method / "config.yaml")
    assert resolved.method == METHOD and resolved.run_dir == str(method)


def test_every_request_has_one_rationale_and_every_test_question_one_simulation(finished: Path) -> None:
    folder = RunFolder(str(finished / METHOD))
    requests = sorted((r.kind, r.id) for r in folder.read_records("requests", TeacherRequest))
    rationales = list(folder.read_records("rationales", Rationale))
    assert sorted((r.kind, r.id) for r in rationales) == requests
    assert {r.teacher for r in rationales} == {"random:llama"}
    factual = sorted(r.id for r in rationales if r.kind == "factual")
    assert sorted(a.id for a in folder.read_records("answers", StudentAnswer)) == factual
    tested = sorted(r.id for r in rationales if r.kind == "factual" and r.split == "test")
    assert sorted(s.id for s in folder.read_records("simulations", Simulation)) == tested


def test_report_has_the_figures_and_opens_offline(finished: Path) -> None:
    report = json.loads((finished / "report.json").read_text())
    (method,) = report["methods"]
    assert method["method"] == METHOD
    assert 0 <= method["accuracy"]["value"] <= 1
    assert method["las"]["num_leaking"] + method["las"]["num_nonleaking"] == method["accuracy"]["n"]
    links: list[str] = []

    class Links(HTMLParser):
        def handle_starttag(self, tag, attrs):
            links.extend(v for k, v in attrs if k in ("src", "href") and v and not v.startswith("#"))

    Links().feed((finished / "report.html").read_text())
    assert links == []


def test_same_command_again_does_nothing_and_says_the_same(head: RayHead, finished: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("manifest.json")}
    table = (finished / "report.json").read_bytes()
    result = job(head, "run", f"run_dir={finished}")
    assert result.returncode == 0, tail(result)
    assert METHOD in result.stdout
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("manifest.json")} == before
    assert (finished / "report.json").read_bytes() == table


def test_interrupted_generation_makes_only_what_is_missing(head: RayHead, finished: Path) -> None:
    """The manifest is gone and so are some rows, as after a kill; real kills are in test_chaos.py."""
    folder = finished.parent / "resumed"
    options = [f"run_dir={folder}", "teacher.batch_size=8"]
    assert job(head, "prepare", *options).returncode == 0
    assert job(head, "generate", *options).returncode == 0
    rationales = folder / "rationales"
    straight = list(RunFolder(str(folder)).read_records("rationales", Rationale))
    manifest = json.loads((rationales / "manifest.json").read_text())
    started = {"settings": manifest["settings"], "input": manifest["input"]}
    (rationales / "started.json").write_text(json.dumps(started))
    (rationales / "manifest.json").unlink()
    RunFolder(str(folder)).write_records("rationales/part-00000.parquet", straight[5:], Rationale)
    result = job(head, "generate", *options)
    assert result.returncode == 0, tail(result)
    assert "5 rows in" in result.stdout
    again = list(RunFolder(str(folder)).read_records("rationales", Rationale))
    assert [without_scores(row) for row in again] == [without_scores(row) for row in straight]


def without_scores(row: Rationale) -> Rationale:
    """In a batch of another size, log-probabilities differ by rounding; tokens and all else do not."""
    scores = [field.name for field in fields(row) if field.name.endswith("_logprobs")]
    return replace(row, **dict.fromkeys(scores, ()))


def test_changed_configuration_is_refused_by_name_and_made_again_when_told(
    head: RayHead, finished: Path
) -> None:
    folder = finished.parent / "resumed"
    result = job(
        head, "generate", f"run_dir={folder}", "teacher.batch_size=8", "teacher.decoding.weight=0.25"
    )
    assert result.returncode == 1
    assert "teacher.decoding.weight: 0.5 -> 0.25" in result.stderr and "--overwrite" in result.stderr
    assert "Traceback" not in result.stderr


def test_model_that_cannot_be_loaded_is_one_line_and_exit_code_2(head: RayHead, finished: Path) -> None:
    folder = finished.parent / "resumed"
    result = job(head, "generate", f"run_dir={folder}", "teacher.model=random:nonsense", "--overwrite")
    assert result.returncode == 2, tail(result)
    assert "known architectures are" in result.stderr
    assert "Traceback" not in result.stderr


def test_stage_before_its_time_names_the_verb_to_run(head: RayHead) -> None:
    result = job(head, "train", f"run_dir={head.folder / 'nothing'}")
    assert result.returncode == 2
    assert "run `python -m jobs.generate` first" in result.stderr and "Traceback" not in result.stderr
