"""The whole pipeline on a real cluster of several nodes with token authentication: `cluster.submit`, then the
same command again, and what goes wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import fields, replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from forked_workers import forked_workers
from interrupting import interrupt

from cluster.local import LocalCluster
from cluster.processes import find, free_ports
from cotray.config import load_config
from cotray.records import Rationale, Simulation, StudentAnswer, TeacherRequest
from cotray.storage.run_folder import RunFolder

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
METHOD = "contrast-wrong+counterfactual"
STAGES = ("requests", "rationales", "examples", "student", "answers")
STAGES += ("simulator_examples", "simulator", "simulations")


@pytest.fixture(scope="module")
def nodes() -> Iterator[LocalCluster]:
    with forked_workers(), LocalCluster(2, cpus_per_node=4, gpus_per_node=1) as cluster:
        yield cluster


def run(*command: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=800,
    )


def submit(nodes: LocalCluster, verb: str, *overrides: str) -> subprocess.CompletedProcess[str]:
    """The verb as a job of the cluster."""
    command = ["python", "-m", f"jobs.{verb}", "-c", "jobs/configs/smoke.yaml", *overrides]
    return run("cluster.submit", "--", *command, environment=nodes.environment)


def job(nodes: LocalCluster, verb: str, *overrides: str) -> subprocess.CompletedProcess[str]:
    """The verb from this process's side, joining the running cluster."""
    environment = nodes.environment | {"RAY_ADDRESS": nodes.address}
    return run(f"jobs.{verb}", "-c", "jobs/configs/smoke.yaml", *overrides, environment=environment)


def tail(result: subprocess.CompletedProcess[str]) -> str:
    return "\n".join((result.stdout + result.stderr).splitlines()[-30:])


@pytest.fixture(scope="module")
def finished(nodes: LocalCluster) -> Path:
    """The smoke configuration, submitted as a job."""
    run_dir = nodes.folder / "smoke"
    result = submit(nodes, "run", f"run_dir={run_dir}")
    assert result.returncode == 0, tail(result)
    assert METHOD in result.stdout
    return run_dir


def test_submitted_job_leaves_every_named_part_of_the_run_folder(finished: Path) -> None:
    assert {p.name for p in finished.iterdir()} == {METHOD, "config.yaml", "report.json", "report.html"}
    method = finished / METHOD
    assert {p.name for p in method.iterdir()} - {"dead_letter"} == {
        *STAGES,
        "config.yaml",
        "metrics.jsonl",
        "cards",
        ".leases",
    }
    assert len(list((method / "cards").iterdir())) == 2
    for stage in STAGES:
        assert (method / stage / ".stage/manifest.json").is_file() and not (
            method / stage / ".stage/started.json"
        ).exists()
    for model in ("student", "simulator"):
        assert (method / model / "model.safetensors").is_file()
    template = (method / "student/chat_template.jinja").read_text()
    assert '"[factual] "' in template and not (method / "simulator/chat_template.jinja").exists()
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


def test_same_command_again_does_nothing_and_says_the_same(nodes: LocalCluster, finished: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("manifest.json")}
    table = (finished / "report.json").read_bytes()
    result = job(nodes, "run", f"run_dir={finished}")
    assert result.returncode == 0, tail(result)
    assert METHOD in result.stdout
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("manifest.json")} == before
    assert (finished / "report.json").read_bytes() == table


@pytest.mark.long
def test_interrupted_generation_makes_only_what_is_missing(nodes: LocalCluster, finished: Path) -> None:
    """The manifest is gone and so are some rows, as after a kill; real kills are in test_chaos.py."""
    folder = finished.parent / "resumed"
    options = [f"run_dir={folder}", "teacher.batch_size=8"]
    assert job(nodes, "prepare", *options).returncode == 0
    assert job(nodes, "generate", *options).returncode == 0
    straight = list(RunFolder(str(folder)).read_records("rationales", Rationale))
    interrupt(RunFolder(str(folder)), "rationales", straight[5:], Rationale)
    result = job(nodes, "generate", *options)
    assert result.returncode == 0, tail(result)
    assert "5 rows in" in result.stdout
    again = list(RunFolder(str(folder)).read_records("rationales", Rationale))
    assert [without_scores(row) for row in again] == [without_scores(row) for row in straight]


def without_scores(row: Rationale) -> Rationale:
    """In a batch of another size, log-probabilities differ by rounding; tokens and all else do not."""
    scores = [field.name for field in fields(row) if field.name.endswith("_logprobs")]
    return replace(row, **dict.fromkeys(scores, ()))


def test_changed_configuration_is_refused_by_name_and_made_again_when_told(
    nodes: LocalCluster, finished: Path
) -> None:
    result = submit(nodes, "generate", f"run_dir={finished / METHOD}", "teacher.decoding.weight=0.25")
    assert result.returncode == 1
    assert "teacher.decoding.weight: 0.5 -> 0.25" in result.stdout and "--overwrite" in result.stdout
    assert "Traceback" not in result.stdout


def test_model_that_cannot_be_loaded_is_one_line_and_exit_code_2(nodes: LocalCluster, finished: Path) -> None:
    options = [f"run_dir={finished / METHOD}", "teacher.model=random:nonsense", "--overwrite"]
    result = job(nodes, "generate", *options)
    assert result.returncode == 2, tail(result)
    assert (finished / METHOD / "rationales/.stage/manifest.json").is_file()
    assert "known architectures are" in result.stderr
    assert "Traceback" not in result.stderr


def test_stage_before_its_time_names_the_verb_to_run(nodes: LocalCluster) -> None:
    result = job(nodes, "train", f"run_dir={nodes.folder / 'nothing'}")
    assert result.returncode == 2
    assert "run `cotray prepare` first" in result.stderr and "Traceback" not in result.stderr


def test_a_submitted_job_with_a_bad_configuration_ends_with_exit_code_2_and_the_nearest_key(
    nodes: LocalCluster,
) -> None:
    result = submit(nodes, "run", "techer.model=random:llama")
    assert result.returncode == 2, tail(result)
    assert "unknown key 'techer'; did you mean 'teacher'?" in result.stdout


def test_a_job_submitted_again_under_its_id_is_followed_not_started_again(nodes: LocalCluster) -> None:
    count = nodes.folder / "count"
    command = ("cluster.submit", "--id", "once", "--", "bash", "-c", f"echo x >> {count}; exit 7")
    results = [run(*command, environment=nodes.environment) for _ in range(2)]
    assert [result.returncode for result in results] == [7, 7]
    assert count.read_text() == "x\n"


@pytest.mark.parametrize(
    ("token", "problem"), [({}, "wants a token"), ({"RAY_AUTH_TOKEN": "wrong"}, "does not know this token")]
)
def test_without_the_clusters_token_a_job_is_refused_in_one_line(
    nodes: LocalCluster, tmp_path: Path, token: dict[str, str], problem: str
) -> None:
    ours = {key: value for key, value in nodes.environment.items() if not key.startswith("RAY_AUTH_")}
    environment = ours | token | {"HOME": str(tmp_path)}
    result = run("cluster.submit", "--", "true", environment=environment)
    assert result.returncode == 2
    assert problem in result.stderr and len(result.stderr.splitlines()) == 1
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{nodes.url}/api/jobs/", timeout=30)
    assert refused.value.code == 401


def test_no_cluster_is_one_line_that_names_the_address_given(nodes: LocalCluster) -> None:
    result = run(
        "cluster.submit", "--address", "http://127.0.0.1:9", "--", "true", environment=nodes.environment
    )
    assert result.returncode == 2
    assert "no Ray cluster at http://127.0.0.1:9" in result.stderr and len(result.stderr.splitlines()) == 1


def test_what_a_job_brings_along_is_code_and_small(nodes: LocalCluster, finished: Path) -> None:
    (package,) = nodes.folder.glob("head/session_2*/runtime_resources/working_dir_files/_ray_pkg_*/")
    assert {path.name for path in package.iterdir()} == {"cotray", "jobs", "cluster"}
    assert sum(path.stat().st_size for path in package.rglob("*") if path.is_file()) < 2_000_000


@pytest.mark.skipif(not shutil.which("prometheus"), reason="no prometheus")
def test_prometheus_over_the_cluster_has_the_rows_that_the_job_made(
    nodes: LocalCluster, finished: Path
) -> None:
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "cluster.observe", "--port", str(port)]
    observer = subprocess.Popen(command, env=nodes.environment, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        query = f"http://127.0.0.1:{port}/api/v1/query?query=sum+by+(stage)+(ray_cotray_rows_total)"
        folder = RunFolder(str(finished / METHOD))
        made = {
            stage: folder.require(stage, "run").num_out for stage in ("rationales", "answers", "simulations")
        }
        found: dict[str, float] = {}
        deadline = time.monotonic() + 300
        # Nodes are scraped one by one.
        while any(found.get(stage, 0) < rows for stage, rows in made.items()):
            assert observer.poll() is None and time.monotonic() < deadline, (found, made)
            try:
                with urllib.request.urlopen(query, timeout=10) as response:
                    series = json.load(response)["data"]["result"]
            except OSError:
                series = []
            found = {each["metric"]["stage"]: float(each["value"][1]) for each in series}
            time.sleep(0.5)
    finally:
        observer.terminate()
        observer.wait(30)
    assert observer.stdout and "Generate and score" in observer.stdout.read()


def test_a_cluster_leaves_nothing_and_whoever_followed_a_job_on_it_is_told(tmp_path: Path) -> None:
    impatient = "import cluster.submit as s; s.GIVE_UP_S = 4; raise SystemExit(s.main())"
    command = [sys.executable, "-c", impatient, "--id", "long", "--", "bash", "-c", "echo begun; sleep 300"]
    with LocalCluster(1) as cluster, (tmp_path / "err").open("w") as err:
        sessions = [process.pid for process in cluster.processes]
        assert len(find(sessions, (f"{cluster.folder}/",))) > 4
        follower = subprocess.Popen(
            command, env=cluster.environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=err, text=True
        )
        assert follower.stdout and any(line == "begun\n" for line in follower.stdout)
    assert find(sessions, (f"{cluster.folder}/",)) == []
    assert not cluster.folder.exists()
    assert follower.wait(200) == 1
    (line,) = (tmp_path / "err").read_text().splitlines()
    assert line.startswith("cotray: long: the cluster has been out of reach") and line.endswith("--id long")
