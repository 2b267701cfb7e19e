"""Every verb with marked secrets in its configuration: none is in a file, a log, or what Ray knows of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from local_ray import hears_signals, joining, local_ray

from cluster.processes import free_ports
from cotray.cli import job
from cotray.config import DataConfig
from cotray.data.readers import read_rows

pytestmark = [pytest.mark.ray, pytest.mark.long]

ROOT = Path(__file__).parents[2]
SMOKE = ROOT / "jobs/configs/smoke.yaml"
TOKEN, FOLDER = "@tok:sec#ret%4711", "marked-folder-0815"
MARKS = [TOKEN.encode(), json.dumps(TOKEN).encode()[1:-1], FOLDER.encode()]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with local_ray(num_cpus=8) as address:
        yield address


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its data lie beside it, in a folder whose name is marked."""
    folder = tmp_path_factory.mktemp("secrets")
    data = tmp_path_factory.mktemp("data") / FOLDER
    data.mkdir()
    rows = [row for _, row in read_rows(DataConfig(limit=60))][:60]
    (data / "q.jsonl").write_text("\n".join(map(json.dumps, [*rows, {"question": "dead"}])))
    tree = yaml.safe_load(SMOKE.read_text())
    arguments = {"hf_token": "${COTRAY_T_TOKEN}", "seconds_per_batch": 0}
    tree |= {"run_dir": f"{folder}/run", "methods": ["greedy"], "ray": {"num_cpus": 4}}
    tree["data"] = {"path": "${COTRAY_T_DATA}/q.jsonl", "limit": 40}
    tree["teacher"] |= {"engine": "fake", "engine_args": arguments, "record_scores": False}
    tree["assessing"] = {"measures": ["surface"]}
    tree["serving"] = {"engine_args": {"hf_token": "${COTRAY_T_TOKEN}"}, "port": free_ports(1)[0]}
    tree["serving"] |= {"engine": "transformers", "api_keys": "open"}
    (folder / "c.yaml").write_text(yaml.safe_dump(tree))
    (folder / "sweep.yaml").write_text(
        yaml.safe_dump(
            {"config": "c.yaml", "run_dir": f"{folder}/sweep", "seeds": [1], "vary": {"seed": [3]}}
        )
    )
    os.environ["COTRAY_T_DATA"] = str(data)
    os.environ["COTRAY_T_TOKEN"] = TOKEN
    return folder


def in_process(address: str, work: Path, verb: str, *, until: str = "") -> None:
    """A verb that starts workers; `until`: the line at which it is interrupted."""
    command = [sys.executable, "-m", f"jobs.{verb}", "-c", str(work / "c.yaml"), "method=greedy"]
    with subprocess.Popen(
        command,
        env=joining(address),
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=hears_signals,
    ) as process:
        try:
            assert process.stdout is not None
            lines = []
            for line in process.stdout:
                lines.append(line)
                if until and until in line:
                    process.send_signal(signal.SIGINT)
            (work / f"{verb}.terminal").write_text("".join(lines))
            assert process.wait() == 0, "".join(lines[-20:])
        finally:
            process.kill()


def here(work: Path, capsys: pytest.CaptureFixture[str], verb: str, *options: str) -> int:
    code = job(verb, [*options[:1], "-c", str(work / "c.yaml"), *options[1:], "method=greedy"])
    captured = capsys.readouterr()
    assert captured.out or captured.err
    (work / f"{verb}-{len(list(work.iterdir()))}.terminal").write_text(captured.out + captured.err)
    return code


def test_no_verb_lets_a_secret_out(address: str, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import ray
    from ray._private import worker

    in_process(address, work, "run")
    in_process(address, work, "serve", until="serving on")
    capsys.readouterr()
    out, run_dir = f"{work}/out", f"run_dir={work}/run"
    verbs = [
        ["report", run_dir],
        ["verify", f"{run_dir}/greedy"],
        *([verb, "--print-config"] for verb in ("prepare", "train", "serve")),
        ["prepare", "--show=1"],
        ["prepare", "--show-prompts=1"],
        ["plan", "--rows=100", "--teacher-tokens-per-s=100", "--runs=1", "teacher.num_gpus=1"],
        ["annotate", "export", f"--out={out}/a"],
        *(["export", f"--to={name}", f"--out={out}/{name}"] for name in ("chat", "student", "lm-eval")),
    ]
    for verb, *options in verbs:
        assert here(work, capsys, verb, *options) == 0, (verb, options)
    assert here(work, capsys, "generate", "run_dir=/dev/null/x") == 2
    assert here(work, capsys, "train", "seed=${COTRAY_T_TOKEN}") == 2

    session = Path(worker._global_node.get_session_dir_path())  # type: ignore[union-attr]
    written = [path for folder in (work, session) for path in folder.rglob("*") if path.is_file()]
    assert len(written) > 100
    found = [(path, mark) for path in written for mark in MARKS if mark in path.read_bytes()]
    assert not found
    gcs = worker.global_worker.gcs_client  # pyright: ignore[reportAttributeAccessIssue]
    known = [str(gcs.get_all_job_info()).encode(), str(ray.nodes()).encode()]
    for space in (None, b"job", b"fun", b"serve"):
        known += [gcs.internal_kv_get(key, space) or b"" for key in gcs.internal_kv_keys(b"", space)]
    assert len(known) > 10
    assert not [value for value in known for mark in MARKS if mark in value]
