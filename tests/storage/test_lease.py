"""One process at a time is at work on a verb in a run folder, whoever died before it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import boto3
import pytest
from filelock import FileLock
from s3_server import serve

from cotray.config import load_config
from cotray.data.prepare import prepare
from cotray.errors import DataError, StageError, StageInUse
from cotray.stages.run import wait_until_free
from cotray.storage import lease as lease_module
from cotray.storage.lease import Fence, lease
from cotray.storage.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys
from cotray.storage.lease import lease
with lease(sys.argv[1], "prepare"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "local":
        yield str(tmp_path / "run")
        return
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with serve() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="leases")
        yield f"s3://leases/{tmp_path.name}"


@contextmanager
def another_process(root: str) -> Iterator[subprocess.Popen[str]]:
    """At work on `prepare` until its standard input is closed or it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, root],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_relative_folder_is_the_same_one_in_a_worker_with_another_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "driver").mkdir()
    (tmp_path / "worker").mkdir()
    monkeypatch.chdir(tmp_path / "driver")
    with lease("run", "train") as fence:
        monkeypatch.chdir(tmp_path / "worker")
        fence.check()
    assert not (tmp_path / "worker/run").exists()


def test_who_is_at_work_is_named_and_another_verb_is_free(root: str) -> None:
    with another_process(root) as other:
        who = rf"`prepare` is being done by process {other.pid} of .*--wait"
        with pytest.raises(StageInUse, match=who), lease(root, "prepare"):
            raise AssertionError("two processes are at work")
        with lease(root, "generate") as fence:
            fence.check()


def test_the_lease_of_a_killed_process_is_taken_over_at_once(root: str) -> None:
    with another_process(root) as other:
        other.kill()
        other.wait()
        with lease(root, "prepare") as fence:
            fence.check()


def test_a_lease_that_ended_is_free_and_leaves_no_owner(root: str) -> None:
    for _ in range(2):
        with lease(root, "prepare") as fence:
            fence.check()
    with pytest.raises(StageError, match="was taken over while this process gave no sign of life"):
        fence.check()


def test_an_owner_on_another_machine_is_stale_only_after_a_time_without_a_sign(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lease(root, "prepare") as fence:
        monkeypatch.setattr(lease_module, "_machine", lambda: "elsewhere")
        with pytest.raises(StageInUse), lease(root, "prepare"):
            raise AssertionError("the owner gave a sign of life a moment ago")
        monkeypatch.setattr(lease_module, "TTL_S", -1)
        with lease(root, "prepare") as second:
            second.check()
            with pytest.raises(StageError, match=r"was taken over by process \d+"):
                fence.check()


def test_of_many_that_ask_at_once_one_gets_the_lease(root: str) -> None:
    held = []

    def ask(_: int) -> str:
        try:
            context = lease(root, "prepare")
            context.__enter__()
        except StageInUse:
            return "refused"
        held.append(context)
        return "owner"

    with ThreadPoolExecutor(8) as threads:
        outcomes = list(threads.map(ask, range(8)))
    for context in held:
        context.__exit__(None, None, None)
    assert sorted(outcomes) == ["owner"] + ["refused"] * 7


def test_a_damaged_lease_keeps_nobody_out(root: str) -> None:
    RunFolder(root).write_bytes(".leases/prepare.json", b"{half")
    with lease(root, "prepare") as fence:
        fence.check()


def test_a_lock_that_a_stopped_process_holds_is_named_instead_of_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "LOCK_S", 0.2)
    lock = tmp_path / ".leases" / "lock"
    lock.parent.mkdir()
    message = r"Ctrl-Z.*fuser .*leases/lock"
    with FileLock(lock), pytest.raises(DataError, match=message), lease(str(tmp_path), "prepare"):
        pass
    with lease(str(tmp_path), "prepare") as fence:
        fence.check()


def test_nothing_to_check_without_a_lease() -> None:
    Fence().check()


def test_a_verb_is_refused_while_another_process_does_it_and_waits_when_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = str(tmp_path / "run")
    config = load_config(ROOT / "jobs/configs/smoke.yaml", [f"run_dir={run_dir}", "data.limit=24"])
    folder, looks = RunFolder(run_dir), []
    with another_process(run_dir) as other:
        with pytest.raises(StageInUse):
            prepare(config, folder)

        def look_again(_: float) -> None:
            looks.append(1)
            if len(looks) == 2:
                assert other.stdin is not None
                other.stdin.close()
                other.wait()

        monkeypatch.setattr("cotray.stages.run.time.sleep", look_again)
        manifest = wait_until_free(True, lambda: prepare(config, folder))
    assert len(looks) == 2 and manifest.num_out == 24
    assert os.listdir(tmp_path / "run" / ".leases") == ["lock"]
