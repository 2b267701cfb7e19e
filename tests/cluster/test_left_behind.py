"""However a verb ends, nothing of it stays: no process, no port, no shared memory, no temporary file."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
from local_ray import hears_signals

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
SMOKE = ROOT / "jobs/configs/smoke.yaml"
SLOW = ["teacher.engine=fake", "teacher.batch_size=1", "teacher.engine_args.seconds_per_batch=1"]
MANY_STEPS = ["training.epochs=5000", "training.patience=5000", "training.checkpoint_minutes=0.001"]
WAIT_S = 500


def generating(folder: Path) -> tuple[list[str], str]:
    """A command that is long at it, and the files that show that it is."""
    return ["jobs.run", "-c", str(SMOKE), f"run_dir={folder}/run", *SLOW], "run/*/rationales/.batches-*/*/*"


def training(folder: Path, options: Sequence[str] = MANY_STEPS) -> tuple[list[str], str]:
    rows = [
        {"passage": f"Ice {n} floats.", "question": "What floats?", "answer": f"Ice {n}"} for n in range(20)
    ]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "c.yaml").write_text("model: random:qwen2\ntraining: {num_cpus: 1}\nray: {num_cpus: 2}\n")
    command = ["jobs.train_pairs", "-c", str(folder / "c.yaml"), "--data", str(folder / "pairs.jsonl")]
    return [*command, "--out", str(folder / "out"), *options], "out/checkpoints/*/step-*/complete.json"


def marked(mark: str) -> list[int]:
    """Processes that have inherited the environment of the one that was started with this mark."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if mark.encode() in (entry / "environ").read_bytes() and _state(entry) not in "ZX":
                found.append(int(entry.name))
    return found


def _state(entry: Path) -> str:
    return (entry / "stat").read_text().rpartition(")")[2].split()[0]


def sockets(pids: list[int]) -> set[str]:
    """Inodes of the TCP ports that these processes listen on."""
    tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    lines = [line.split() for table in tables for line in table]
    listening = {f"socket:[{fields[9]}]" for fields in lines if fields[3] == "0A"}
    opened = set[str]()
    for pid in pids:
        with contextlib.suppress(OSError):
            opened |= {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()}
    return listening & opened


def shared_memory(pids: list[int]) -> set[Path]:
    """What of /dev/shm these processes have mapped and is still there under a name."""
    mapped = set[str]()
    for pid in pids:
        with contextlib.suppress(OSError):
            mapped |= set(re.findall(r"/dev/shm/\S+", Path(f"/proc/{pid}/maps").read_text()))
    return {path for path in map(Path, mapped) if path.exists()}


def wait_until(is_so: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + WAIT_S
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.1)
    return is_so()


@pytest.mark.parametrize(
    ("how", "work"),
    [
        # Nothing is left to train on.
        pytest.param(None, partial(training, options=("training.max_length=8",)), marks=pytest.mark.long),
        (signal.SIGINT, generating),
        pytest.param(signal.SIGTERM, generating, marks=pytest.mark.long),
        pytest.param(signal.SIGHUP, training, marks=pytest.mark.long),
        (signal.SIGKILL, training),
    ],
    ids=["exception", "ctrl-c", "sigterm", "sighup", "sigkill"],
)
def test_a_verb_leaves_nothing_behind(
    how: signal.Signals | None, work: Callable[[Path], tuple[list[str], str]], tmp_path: Path
) -> None:
    command, shows = work(tmp_path)
    mark, temporary = f"ct{uuid.uuid4().hex}", Path(f"/tmp/ct-{uuid.uuid4().hex[:6]}")
    (temporary / "own").mkdir(parents=True)
    environment = os.environ | {"COTRAY_TEST_MARK": mark, "TMPDIR": str(temporary / "own")}
    # Ray's logs and what torch has compiled are meant to stay.
    environment |= {"RAY_TMPDIR": str(temporary), "TORCHINDUCTOR_CACHE_DIR": str(temporary / "compiled")}
    environment.pop("RAY_ADDRESS", None)
    memory = set[Path]()
    log = (temporary / "log").open("w+")
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env=environment,
        stdout=log,
        stderr=log,
        preexec_fn=hears_signals,
    )
    try:
        if how is not None:
            assert wait_until(lambda: any(tmp_path.glob(shows)) or process.poll() is not None)
            assert process.poll() is None
            during = marked(mark)
            assert len(during) > 5 and sockets(during)
            memory = shared_memory(during)
            process.send_signal(how)
        assert process.wait(WAIT_S) != 0
        assert wait_until(lambda: not marked(mark))
        assert wait_until(lambda: not list((temporary / "own").iterdir()))
        assert not [path for path in memory if path.exists()]
    except BaseException:
        log.seek(0)
        print(log.read()[-3000:], *(temporary / "own").rglob("*"), sep="\n")
        print(*(Path(f"/proc/{pid}/cmdline").read_bytes()[:200] for pid in marked(mark)), sep="\n")
        raise
    finally:
        log.close()
        for pid in marked(mark):
            os.kill(pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(temporary, ignore_errors=True)
