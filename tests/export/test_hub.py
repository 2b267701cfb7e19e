"""An upload sends the folder's files and nothing before it is meant."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from finished_runs import METHODS, finish, run_folder
from hub_server import TOKEN, Hub, hub

from cotray.config import dump_config
from cotray.records import Record
from cotray.storage.run_folder import RunFolder

ROOT = Path(__file__).parents[2]


def export(
    tmp_path: Path, server: Hub, to: str, *options: str, token: str = TOKEN
) -> subprocess.CompletedProcess:
    """In a process of its own: the hub's library reads its variables once."""
    command = [sys.executable, "-m", "jobs.export", "-c", str(tmp_path / "c.yaml"), "--to", to]
    return subprocess.run(
        [*command, "--out", str(tmp_path / to), *options],
        cwd=ROOT,
        env=os.environ
        | {"HF_ENDPOINT": server.url, "HF_TOKEN": token, "HF_HOME": str(tmp_path / "hf")}
        # The server stores weights by the older of the hub's two ways.
        | {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"},
        capture_output=True,
        text=True,
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_without_yes_nothing_is_sent_and_every_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(dump_config(run_folder(tmp_path)))
    with hub() as server:
        done = export(tmp_path, server, "chat", "--push-to-hub", "you/birds")
    assert done.returncode == 0, done.stderr
    assert server.requests == []
    assert f"to the dataset repository you/birds at {server.url}" in done.stdout
    for name, data in contents(tmp_path / "chat").items():
        assert f"  {name} ({len(data):,} bytes)" in done.stdout
    assert done.stdout.endswith("nothing was uploaded; --yes does it\n")


def test_with_yes_the_dataset_arrives_as_it_lies_in_the_folder_in_a_private_repository(
    tmp_path: Path,
) -> None:
    (tmp_path / "c.yaml").write_text(dump_config(run_folder(tmp_path)))
    with hub() as server:
        done = export(tmp_path, server, "preference", "--push-to-hub", "you/birds", "--yes")
    assert done.returncode == 0, done.stderr
    [repo] = server.repos
    assert (repo["name"], repo["type"], repo.get("private", repo.get("visibility"))) in (
        ("birds", "dataset", True),
        ("birds", "dataset", "private"),
    )
    sent = {f"datasets/you/birds/{name}": data for name, data in contents(tmp_path / "preference").items()}
    assert server.files == sent and len(sent) > 4
    assert f"{server.url}/you/birds/commit/abc" in done.stdout


def test_a_student_goes_to_a_model_repository_with_its_card(tmp_path: Path) -> None:
    config = run_folder(tmp_path)
    (tmp_path / "c.yaml").write_text(dump_config(config))
    folder = RunFolder(config.for_method(METHODS[1]).run_dir)
    folder.write_bytes("student/config.json", b'{"model_type": "qwen2"}')
    folder.write_bytes("student/model.safetensors", bytes(range(256)))
    metrics = {"factual": 2, "counterfactual": 1, "dev": 1}
    finish(folder, "student", [], Record, settings={"model": "random:qwen2"}, metrics=metrics)
    with hub() as server:
        done = export(tmp_path, server, "student", "--push-to-hub", "you/student", "--yes")
    assert done.returncode == 0, done.stderr
    sent = {f"models/you/student/{name}": data for name, data in contents(tmp_path / "student").items()}
    assert server.files == sent and len(sent) == 3
    assert list(server.large.values()) == [bytes(range(256))]
    assert b"library_name: transformers" in (tmp_path / "student" / "README.md").read_bytes()


def test_a_refused_token_is_one_line_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(dump_config(run_folder(tmp_path)))
    with hub() as server:
        done = export(tmp_path, server, "chat", "--push-to-hub", "you/birds", "--yes", token="hf_other")
    assert done.returncode == 1
    assert done.stderr.startswith(f"cotray: you/birds: could not be uploaded to {server.url} (")
    assert "HF_TOKEN" in done.stderr and len(done.stderr.splitlines()) == 1
    assert server.files == {}


def test_a_hub_that_cannot_be_reached_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(dump_config(run_folder(tmp_path)))
    with hub() as server:
        pass  # its port is free again
    done = export(tmp_path, server, "chat", "--push-to-hub", "you/birds", "--yes")
    assert done.returncode == 1
    assert server.url in done.stderr and len(done.stderr.splitlines()) == 1
