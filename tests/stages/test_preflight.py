"""What would stop a run hours from now is told in seconds, all of it at once, each with cause and way out."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cotray.cli import job
from cotray.config import RunConfig, TrainingConfig, parse_config
from cotray.models.availability import problem_of
from cotray.models.random_models import make_random
from cotray.pools.resources import Need, Node, Share, pool_need, training_need, unmet
from cotray.stages.generate import settings_of
from cotray.stages.preflight import problems
from cotray.storage.manifest import Manifest
from cotray.storage.run_folder import RunFolder

ROOT = Path(__file__).parents[2]

RANDOM = {"teacher": {"model": "random:llama"}, "student": {"model": "random:qwen2"}}
RANDOM |= {"simulator": {"model": "random:t5"}, "methods": ["greedy"], "method": "greedy"}


@pytest.fixture(autouse=True)
def without_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # what is not here is then not found at once
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def configured(tmp_path: Path, keys: dict[str, Any]) -> RunConfig:
    tree: dict[str, Any] = {"run_dir": str(tmp_path / "run"), **RANDOM}
    for key, value in keys.items():
        *parents, leaf = key.split(".")
        place = tree
        for parent in parents:
            place[parent] = dict(place.get(parent, {}))
            place = place[parent]
        place[leaf] = value
    return parse_config(tree)


def found(tmp_path: Path, keys: dict[str, Any], verb: str = "run") -> list[str]:
    config = configured(tmp_path, keys)
    return problems([config.for_method(method) for method in config.methods], verb)


def test_nothing_is_found_where_nothing_is_wrong_and_nothing_is_left_there(tmp_path):
    assert found(tmp_path, {}) == []
    assert list(tmp_path.iterdir()) == []


BROKEN: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"teacher.model": "/no/such/model"}, ("teacher.model '/no/such/model': no such folder",)),
    (
        {"student.model": "nobody/has-this"},
        ("student.model 'nobody/has-this': cannot be loaded", "Give a folder"),
    ),
    ({"simulator.model": "random:zebra"}, ("simulator.model 'random:zebra': known", "qwen2")),
    ({"student.model": "WITHOUT_WEIGHTS"}, ("there are no weights", "export it again")),
    ({"student.model": "DAMAGED"}, ("student.model", "cannot be")),
    ({"data.path": "questions.csv"}, ("data.path: questions.csv: no such file", "give a file, folder")),
    ({"run_dir": "/dev/null/run"}, ("run_dir: /dev/null is a file", "choose another run_dir")),
    (
        {"teacher.num_gpus": 1},
        ("a replica of teacher with 2 CPU + 1 GPU", "set num_gpus=0 in teacher"),
    ),
    (
        {"student.training.num_workers": 5},
        (
            "student.training: 5 training workers with 2 CPU each cannot be placed",
            "8 CPU",
            "raise ray.num_cpus",
        ),
    ),
    (
        {"scoring.label_selector": {"zone": "b"}},
        ("scoring: a replica of scoring with 2 CPU zone=b", "leave label_selector out of scoring"),
    ),
    (
        {"teacher.engine": "openai", "teacher.endpoint": {"base_url": "http://127.0.0.1:9/v1"}},
        ("teacher.endpoint.base_url: http://127.0.0.1:9/v1 cannot be reached", "start the server"),
    ),
    ({"teacher.demonstrations": "no.jsonl"}, ("teacher.demonstrations: no.jsonl: no such file",)),
    ({"teacher.engine": "vllm"}, ("teacher.engine=vllm: the package vllm is not installed", "pip install")),
]


def placed(keys: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """With broken models where their names stand."""
    for name in ("WITHOUT_WEIGHTS", "DAMAGED"):
        if name in keys.values():
            make_random("random:qwen2", tmp_path / name)
            if name == "DAMAGED":
                (tmp_path / name / "tokenizer.json").write_text('{"version": "1.0", "model":')
            else:
                (tmp_path / name / "model.safetensors").unlink()
            return {key: str(tmp_path / name) if value == name else value for key, value in keys.items()}
    return keys


@pytest.mark.parametrize(("keys", "said"), BROKEN, ids=lambda value: next(iter(value), ""))
def test_each_problem_names_its_cause_and_the_way_out(keys, said, tmp_path, monkeypatch):
    if keys.get("teacher.engine") == "vllm":
        monkeypatch.setitem(sys.modules, "vllm", None)  # as where it is not installed
    monkeypatch.chdir(tmp_path)
    (problem,) = [one for one in found(tmp_path, placed(keys, tmp_path)) if "PyTorch" not in one]
    assert all(part in problem for part in said), problem
    assert "\n" not in problem


def test_ten_at_once_are_told_at_once(tmp_path):
    keys = {
        "run_dir": "/dev/null/run",
        "data.path": "questions.csv",
        "teacher.model": "/no/such/model",
        "teacher.num_gpus": 1,
        "teacher.demonstrations": "no.jsonl",
        "student.model": "nobody/has-this",
        "student.training.num_workers": 5,
        "simulator.model": "random:zebra",
        "simulator.training.label_selector": {"zone": "b"},
        "scoring.num_cpus": 99,
    }
    told = found(tmp_path, keys)
    begins = [
        "run_dir:", "data.path:", "teacher.model", "teacher:", "teacher.demonstrations:", "student.model",
        "student.training:", "simulator.model", "simulator.training:", "scoring:",
    ]  # fmt: skip
    for begin in begins:
        assert len([one for one in told if one.startswith(begin)]) == 1, (begin, told)
    assert len([one for one in told if "PyTorch" not in one]) == 10


def test_a_command_tells_all_of_them_and_starts_nothing(tmp_path, capsys):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({"run_dir": str(tmp_path / "run"), **RANDOM}))
    wrong = ["data.path=questions.csv", "teacher.model=/no/such/model", "scoring.num_cpus=99"]
    assert job("run", ["-c", str(path), *wrong]) == 2
    said = capsys.readouterr().err
    assert said.startswith("cotray: 3 problems, and nothing was started:\n  1. ")
    assert len(said.splitlines()) == 4 and not (tmp_path / "run").exists()
    # A single verb needs only what is its own.
    assert job("train", ["-c", str(path), *wrong, "--dry-run"]) == 0
    assert job("prepare", ["-c", str(path), *wrong]) == 2
    assert capsys.readouterr().err.count("data.path: questions.csv: no such file or folder") == 1


def test_a_dry_run_shows_what_is_done_what_it_takes_and_what_overwrite_deletes(tmp_path, capsys):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({"run_dir": str(tmp_path / "run"), **RANDOM, "data": {"limit": 24}}))
    options = ["-c", str(path), f"run_dir={tmp_path}/run/greedy"]
    assert job("run", ["-c", str(path), "--dry-run"]) == 0
    assert "prepare   to do; 24 usable rows (data.limit)" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    assert job("prepare", options) == 0
    before = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    assert job("run", ["-c", str(path), "--dry-run"]) == 0
    plan = capsys.readouterr().out
    manifest = json.loads((tmp_path / "run/greedy/requests/.stage/manifest.json").read_text())
    num_factual = manifest["metrics"]["kind/factual"]
    assert "  prepare   done, 24 rows\n" in plan
    assert (
        f"  generate  to do; {num_factual} rationales to write (factual); asks for a replica of teacher"
        in plan
    )
    num_train = manifest["metrics"]["split/train"]
    assert f"  train     to do; {num_train} questions of the split train; asks for a training worker" in plan
    assert plan.endswith("no problem found; nothing was started\n")
    assert job("run", ["-c", str(path), "--dry-run", "--overwrite", "data.limit=20"]) == 0
    plan = capsys.readouterr().out
    assert "made under another configuration (data.limit: 24 -> 20); needs --overwrite" in plan
    assert "requests     deleted  (data.limit: 24 -> 20): 24 rows" in plan
    assert job("run", ["-c", str(path), "--dry-run", "data.limit=20"]) == 2, "run would refuse it too"
    plan = capsys.readouterr().out
    assert "1. " in plan and "requests was made under another configuration (data.limit: 24 -> 20)" in plan
    assert sorted(tmp_path.rglob("*")) == before


def test_serving_is_looked_at_as_a_whole(tmp_path, monkeypatch):
    monkeypatch.delenv("COTRAY_API_KEYS", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = found(tmp_path, {"serving.port": port, "ray.num_cpus": 3}, "serve")
    assert [text.split(":")[0] for text in told] == [
        str(tmp_path / "run/greedy"), "no API key", "serving.port", "serving"
    ]  # fmt: skip
    assert "4 processes of the endpoint with 1 CPU each cannot be placed" in told[-1]


def test_what_is_done_needs_its_model_no_more_unless_another_one_is_to_make_it_anew(tmp_path):
    """As of a mistyped name with --overwrite, before which the stage would be deleted."""
    gone = {"teacher.model": "nobody/has-this"}
    assert len(found(tmp_path, gone)) == 1
    settings = settings_of(configured(tmp_path, gone).for_method("greedy"))
    RunFolder(str(tmp_path / "run/greedy")).finish(Manifest("rationales", settings, "", 0, 0, 0))
    assert found(tmp_path, gone) == []
    (problem,) = found(tmp_path, {"teacher.model": "random:nonsense"})
    assert problem.startswith("teacher.model 'random:nonsense'")


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("cotray.stages.preflight.LEAST_FREE_MIB", 1 << 40)
    (problem,) = found(tmp_path, {})
    assert problem.startswith("run_dir: the disk of") and "is full" in problem


@pytest.mark.parametrize(
    ("shares", "nodes", "fits"),
    [
        ([Share(2)], [Node(1, 0), Node(2, 0)], True),
        ([Share(2)] * 3, [Node(3, 0), Node(3, 0)], False),
        ([Share(2)] * 2, [Node(3, 0), Node(3, 0)], True),
        ([Share(1, 1)] * 2, [Node(8, 1)], False),
        ([Share(1), Share(1, 1)], [Node(1, 1), Node(1, 0)], True),
        ([Share(0, 0.5)] * 2, [Node(0, 1)], True),
        ([Share(1, 0, {"zone": "a"})], [Node(1, 0), Node(1, 0, {"zone": "b"})], False),
        ([Share(1, 0, {"zone": "in(a, b)"})], [Node(1, 0, {"zone": "b"})], True),
        ([Share(1, 0, {"zone": "!b"})], [Node(1, 0, {"zone": "b"})], False),
        ([Share(1, 0, {"zone": "!in(b,c)"})], [Node(1, 0, {"zone": "a"})], True),
    ],
)
def test_what_fits_is_placed_by_hand_in_the_same_way(shares, nodes, fits):
    assert Need("key", "workers", (tuple(shares),)).is_met(nodes) is fits


def test_of_several_pools_one_is_enough():
    config = RunConfig.model_validate({"teacher": {"pools": [{"num_gpus": 1}, {"num_cpus": 1}]}}).teacher
    assert unmet(pool_need("teacher", config), [Node(1, 0)]) is None
    text = unmet(pool_need("teacher", config), [Node(0.5, 0)])
    assert text is not None and "with 1 CPU + 1 GPU or 1 CPU cannot be placed" in text


def test_a_need_is_told_with_its_number_and_share():
    training = RunConfig().student.training
    assert str(training_need("k", training)) == "a training worker with 2 CPU"
    four = TrainingConfig.model_validate({"num_workers": {"min": 4, "max": 8}, "num_gpus": 1})
    assert str(training_need("k", four)) == "4 training workers with 2 CPU + 1 GPU each"


def test_a_model_that_is_whole_has_no_problem(tmp_path):
    make_random("random:gpt2", tmp_path / "m")
    assert problem_of(str(tmp_path / "m")) is None
    assert problem_of("embedded:smollm2-135m-instruct") is None


def test_models_looked_at_at_once_in_a_new_process_are_each_told_their_own_cause(tmp_path):
    """The first import of a library is not left to threads, which would find it half there."""
    keys = ("teacher.model", "student.model", "simulator.model")
    command = [sys.executable, "-m", "jobs.run", "-c", "jobs/configs/smoke.yaml", f"run_dir={tmp_path}/run"]
    options = [f"{key}=random:{number}" for number, key in enumerate(keys)]
    done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    for number, key in enumerate(keys):
        assert f"{key} 'random:{number}': known architectures are llama" in done.stderr
