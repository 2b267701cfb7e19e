"""Processes that the fork server makes are what a new Python would be, with torch imported."""

from __future__ import annotations

import json
import os
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cotray.pools.fork_server import fork_server

SCRIPT = """
import gc, json, os, random, sys, threading
print(json.dumps({
    "arguments": sys.argv, "variable": os.environ.get("COTRAY_TEST"), "folder": os.getcwd(), "name": __name__,
    "has_torch": "torch" in sys.modules, "threads": threading.active_count(), "draw": random.random(),
    "torch_threads": sys.modules["torch"].get_num_threads() if "torch" in sys.modules else None,
    "parent": os.getppid(), "leader": os.getsid(0) == os.getpid(), "pid": os.getpid(),
    "frozen": gc.get_freeze_count(), "has_ray": "ray" in sys.modules, "path": sys.path,
}))
print("an error", file=sys.stderr)
"""


@pytest.fixture(scope="module")
def client() -> Iterator[list[str]]:
    with fork_server() as runtime_env:
        yield shlex.split(runtime_env["py_executable"])


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("script") / "worker.py"
    path.write_text(SCRIPT)
    return path


def run(client: list[str], script: Path, folder: Path, **more: str) -> tuple[dict, str]:
    environment = {"COTRAY_TEST": "here", "PATH": os.environ["PATH"], "OMP_NUM_THREADS": "3"} | more
    command = [*client, str(script), "--port=1", "a b"]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_a_forked_worker_has_the_arguments_environment_folder_and_streams_it_was_asked_for(
    client: list[str], script: Path, tmp_path: Path
) -> None:
    told, errors = run(client, script, tmp_path)
    assert told["arguments"] == [str(script), "--port=1", "a b"] and told["name"] == "__main__"
    assert (told["variable"], told["folder"]) == ("here", str(tmp_path))
    assert told["has_torch"] and told["threads"] == 1 and told["leader"]
    assert errors == "an error\n" and told["torch_threads"] == 3


def test_a_collection_in_a_worker_does_not_copy_what_the_server_imported(
    client: list[str], script: Path, tmp_path: Path
) -> None:
    told, _ = run(client, script, tmp_path)
    assert told["frozen"] > 100_000 and not told["has_ray"]


def test_a_worker_finds_what_its_own_pythonpath_names_before_what_is_installed(
    client: list[str], script: Path, tmp_path: Path
) -> None:
    own = [str(tmp_path / "first"), str(tmp_path / "second")]
    told, _ = run(client, script, tmp_path, PYTHONPATH=os.pathsep.join(own))
    assert told["path"][1:3] == own
    assert not set(own) & set(run(client, script, tmp_path)[0]["path"])


def test_workers_do_not_share_their_random_numbers(client: list[str], script: Path, tmp_path: Path) -> None:
    first, second = (run(client, script, tmp_path)[0] for _ in range(2))
    assert first["draw"] != second["draw"] and first["pid"] != second["pid"]
    assert first["parent"] == second["parent"]


def test_the_client_ends_when_its_worker_is_killed(client: list[str], tmp_path: Path) -> None:
    path = tmp_path / "sleeper.py"
    path.write_text("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(600)\n")
    with subprocess.Popen([*client, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        os.kill(int(process.stdout.readline()), signal.SIGKILL)
        assert process.wait(timeout=60) == 0


def test_without_a_server_the_worker_starts_in_the_usual_way(
    client: list[str], script: Path, tmp_path: Path
) -> None:
    *python, _ = client
    told, _ = run([*python, str(tmp_path / "nobody")], script, tmp_path)
    assert not told["has_torch"] and told["variable"] == "here" and told["parent"] == os.getpid()


def test_a_worker_that_needs_a_library_before_python_is_not_forked(
    client: list[str], script: Path, tmp_path: Path
) -> None:
    told, _ = run(client, script, tmp_path, LD_PRELOAD="")
    assert not told["has_torch"] and told["parent"] == os.getpid()


def raylets_command(context: dict, script: Path, *, language: str = "PYTHON") -> list[str]:
    """As a raylet begins a worker: the context stands behind the worker's own arguments."""
    begin = [sys.executable, str(_client_file()), str(script), "--port=1", "a b"]
    return [*begin, f"--language={language}", f"--serialized-runtime-env-context={json.dumps(context)}"]


CONTEXT = {"command_prefix": [], "override_worker_entrypoint": None, "java_jars": []}


def test_a_raylets_command_is_forked_with_the_variables_of_its_context(
    client: list[str], script: Path, tmp_path: Path
) -> None:
    context = CONTEXT | {"py_executable": shlex.join(client), "env_vars": {"COTRAY_TEST": "of the context"}}
    environment = {"COTRAY_TEST": "here", "PATH": os.environ["PATH"], "OMP_NUM_THREADS": "3"}
    done = subprocess.run(
        raylets_command(context, script), env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    told = json.loads(done.stdout)
    assert told["arguments"] == [str(script), "--port=1", "a b"] and told["has_torch"]
    assert told["variable"] == "of the context" and told["parent"] != os.getpid()


@pytest.mark.parametrize(
    "change",
    [
        {"env_vars": {"COTRAY_TEST": "${NO_SUCH_VARIABLE}of Ray"}},
        {"py_executable": sys.executable},
        {"command_prefix": ["COTRAY_TEST='of Ray'"], "env_vars": {}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_else_a_context_asks_for_is_left_to_ray(
    client: list[str], script: Path, tmp_path: Path, change: dict
) -> None:
    context = CONTEXT | {"py_executable": shlex.join(client), "env_vars": {"COTRAY_TEST": "of Ray"}} | change
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run(
        raylets_command(context, script), env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    told = json.loads(done.stdout)
    assert told["arguments"] == [str(script), "--port=1", "a b"] and told["variable"] == "of Ray"
    assert told["has_torch"] is (context["py_executable"] != sys.executable)


def test_a_server_is_forked_from_one_that_runs_and_ends_with_its_own_driver(
    client: list[str], script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COTRAY_FORK_SERVER", client[-1])
    with fork_server() as runtime_env:
        own = shlex.split(runtime_env["py_executable"])
        assert own[-1] != client[-1]
        told, _ = run(own, script, tmp_path)
        assert told["has_torch"]
        end = os.pidfd_open(told["parent"])
    assert select.select([end], [], [], 60)[0]
    os.close(end)
    assert run(client, script, tmp_path)[0]["has_torch"]


def test_a_server_in_which_a_thread_runs_forks_nothing(script: Path, tmp_path: Path) -> None:
    code = (
        "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "import sys; from cotray.pools import fork_server\n"
        "work = fork_server.serve(sys.argv[1], [])\nassert work is None"
    )
    address = str(tmp_path / "socket")
    server = subprocess.Popen([sys.executable, "-c", code, address], stdin=subprocess.PIPE)
    while not Path(address).exists():
        assert server.poll() is None
    told, _ = run([sys.executable, str(_client_file()), address], script, tmp_path)
    assert told["parent"] == os.getpid()
    assert server.stdin is not None
    server.stdin.close()
    assert server.wait(timeout=60) == 0


def _client_file() -> Path:
    from cotray.pools import fork_client

    return Path(fork_client.__file__)


def test_the_server_ends_with_the_block_and_leaves_no_folder() -> None:
    with fork_server(imports=()) as runtime_env:
        folder = Path(shlex.split(runtime_env["py_executable"])[-1]).parent
        assert folder.is_dir()
    assert not folder.exists()


HANGING = """
import os, signal, subprocess, sys, tempfile
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
folder = tempfile.mkdtemp(prefix="pymp-")
print(os.getpid(), child.pid, folder, flush=True)
signal.pause()
"""


def test_a_worker_that_does_not_end_is_killed_with_what_it_started_and_its_temporary_files_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    path = tmp_path / "hanging.py"
    path.write_text(HANGING)
    with fork_server(imports=()) as runtime_env:
        environment = os.environ | runtime_env["env_vars"]
        command = [*shlex.split(runtime_env["py_executable"]), str(path)]
        client = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        assert client.stdout is not None
        worker, child, folder = client.stdout.readline().split()
        ends = [os.pidfd_open(int(pid)) for pid in (worker, child)]
        assert Path(folder).is_relative_to(tmp_path) and Path(folder).is_dir()
    assert select.select(ends[:1], [], [], 0)[0] and select.select(ends[1:], [], [], 30)[0]
    client.wait()
    client.stdout.close()
    assert not list(tmp_path.glob("cotray-fork-*")) and not list(tmp_path.rglob("pymp-*"))


def test_the_server_outlives_a_driver_that_is_killed_and_takes_all_away(tmp_path: Path) -> None:
    path = tmp_path / "hanging.py"
    path.write_text(HANGING)
    code = (
        "import os, shlex, signal, subprocess, sys\n"
        "from cotray.pools.fork_server import fork_server\n"
        "with fork_server(imports=()) as runtime_env:\n"
        f"    command = [*shlex.split(runtime_env['py_executable']), {str(path)!r}]\n"
        "    environment = os.environ | runtime_env['env_vars']\n"
        "    worker = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)\n"
        "    print(worker.stdout.readline().decode(), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    (tmp_path / "own").mkdir()
    environment = os.environ | {"TMPDIR": str(tmp_path / "own")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    worker, child, folder = done.stdout.split()
    assert done.returncode == -signal.SIGKILL and Path(folder).is_relative_to(tmp_path)
    for pid in (worker, child):
        with suppress(ProcessLookupError):
            end = os.pidfd_open(int(pid))
            assert select.select([end], [], [], 60)[0]
            os.close(end)
    deadline = time.monotonic() + 60
    while list((tmp_path / "own").glob("cotray-fork-*")) and time.monotonic() < deadline:
        time.sleep(0.05)  # the server itself, whose end nobody is told
    assert not list((tmp_path / "own").glob("cotray-fork-*"))
