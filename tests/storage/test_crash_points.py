"""Killed before or after any write, rename, delete or upload, the same command ends with the same run folder.

The verbs run in this process, with a fake teacher and stand-ins for the models, over the real storage code.
A kill is an exception after which nothing of that attempt reaches the storage. Real kills of real processes
are in test_chaos.py. Each seventh point of a local disk and each fifty-third of S3 is tried, unless
COTRAY_CRASH_POINTS_EVERY says otherwise; 1 tries all.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from s3_server import serve

from cotray.config import RunConfig, load_config
from cotray.pools import placement
from cotray.pools.pool import PoolResult, _seal_shard
from cotray.pools.train_workers import FitReport
from cotray.records import Simulation, StudentAnswer
from cotray.stages import generate, score, simulator, train
from cotray.stages.run import run_stages
from cotray.storage import checkpoints, filesystems, folder, lease
from cotray.storage.checkpoints import complete, discard, newest, publish, upload
from cotray.storage.filesystems import filesystem
from cotray.storage.folder import version_of
from cotray.storage.run_folder import RunFolder

CONFIG = Path(__file__).parents[2] / "jobs" / "configs" / "smoke.yaml"
PRIMITIVES = ("write_file", "delete_file", "delete_folder", "copy_file")
MODULES = (filesystems, folder, checkpoints, lease)


class Killed(BaseException):
    """Not an Exception, so that no code of the verbs handles it."""


class Crash:
    """Counts changes of the storage, and kills at one of them; `at` 0 never does."""

    def __init__(self, at: int = 0) -> None:
        self.at, self.num_points = at, 0

    def point(self) -> None:
        self.num_points += 1
        if self.at and self.num_points >= self.at:
            raise Killed

    def around(self, change: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*arguments: Any, **options: Any) -> Any:
            self.point()
            result = change(*arguments, **options)
            self.point()
            return result

        return changed

    @contextmanager
    def armed(self) -> Iterator[Crash]:
        with pytest.MonkeyPatch.context() as patch:
            for module in MODULES:
                for name in PRIMITIVES:
                    if hasattr(module, name):
                        patch.setattr(module, name, self.around(getattr(module, name)))
            # Between the bytes of a new file and its name.
            patch.setattr(os, "replace", self.around(os.replace))
            yield self


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Ray and no models; each attempt is a process of its own to the leases."""
    for module in (generate, score):
        monkeypatch.setattr(module, "run_pool", pool_in_this_process)
    for module in (train, simulator):
        monkeypatch.setattr(module, "fit", fit_without_a_model)
    monkeypatch.setattr(placement, "wait_until_placed", lambda *_, **__: None)
    monkeypatch.setattr(score, "_load_student", lambda *_: answer)
    monkeypatch.setattr(score, "_load_simulator", lambda *_: simulate)
    monkeypatch.setattr(lease, "_start_of", lambda _: str(ATTEMPT["number"]))


ATTEMPT = Counter(number=0)


def pool_in_this_process(stage: Any, **_: Any) -> PoolResult:
    shards, process = stage.shards, stage.build()
    for shard in shards.snapshot():
        rows = shards.waiting(shard).to_pylist()
        for start in range(0, len(rows), 8):
            records = [stage.source_record.from_row(row) for row in rows[start : start + 8]]
            shards.write(shard.name, process(records, on_finished=lambda _: None))
    sealed = [_seal_shard(stage, shard.name) for shard in shards.snapshot()]
    counts = sum((each for each, _ in sealed), Counter[str]())
    assert not counts["missing"]
    shards.close()
    return PoolResult(counts, [entry for _, entry in sealed if entry])


def fit_without_a_model(batches: Any, dev: Any, model: Any, training: Any, out: str, **options: Any) -> Any:
    """Three checkpoints and an export, through the code that `fit` puts them on the storage with."""
    name = f"{out}/checkpoints/{training.learning_rate}-{options['seed']}"
    found, _ = newest(name)
    first = int(found.rpartition("-")[2]) + 1 if found else 1
    local = Path(os.environ["PYTEST_SCRATCH"])
    shutil.rmtree(local, ignore_errors=True)
    local.mkdir()
    (local / "weights.safetensors").write_text(f"weights of {training.learning_rate}")
    for step in range(first, 4):
        discard(f"{name}/step-{step:08d}")
        publish(str(local), f"{name}/step-{step:08d}", 0)
        complete(f"{name}/step-{step:08d}", 1)
    options["fence"].check()
    return FitReport(3, 3, None, 1.0, ({"step": 3, "loss": 0.5},), files=tuple(upload(str(local), out)))


def answer(rows: Any, *, on_finished: Any) -> list[StudentAnswer]:
    return [StudentAnswer.from_row(row.to_row() | {"student_answer": row.answer}) for row in rows]


def simulate(rows: Any, *, on_finished: Any) -> list[Simulation]:
    says = {"sim_x": "yes", "sim_e": "no", "sim_xe": "yes"}
    return [Simulation.from_row(row.to_row() | says) for row in rows]


def config_of(run_dir: str, *options: str) -> RunConfig:
    fixed = [
        "teacher.engine=fake",
        "data.limit=24",
        "student.model=random:llama",
        "scoring.num_resamples=100",
    ]
    return load_config(CONFIG, [*fixed, f"run_dir={run_dir}", *options])


OLD = ("method=contrast-wrong", "student.training.learning_rate=0.1")
NEW = ("method=greedy", "student.training.learning_rate=0.2", "data.limit=20")


def attempt(config: RunConfig, *, overwrite: bool) -> None:
    ATTEMPT["number"] += 1
    run_stages(config, overwrite=overwrite, reuse_from=[], label="test")


def state_of(run_dir: str) -> dict[str, Any]:
    """All that is in a run folder, without times, leases and where it lies."""
    fs, base = filesystem(run_dir)
    infos = fs.get_file_info(pafs.FileSelector(base, recursive=True))
    state: dict[str, Any] = {}
    for info in infos:
        name = info.path.removeprefix(f"{base}/")
        leaf = name.rpartition("/")[2]
        if not info.is_file or name.startswith(".leases/"):
            continue
        with fs.open_input_file(info.path) as file:
            if leaf.endswith(".parquet"):
                table = pq.ParquetFile(file).read()
                state[name] = (version_of(table.schema), table.to_pylist())
            elif leaf == "manifest.json":
                tree = json.loads(file.read())
                tree["metrics"].pop("last_run", None)
                state[name] = tree
            else:
                state[name] = file.read().replace(base.encode(), b"").replace(run_dir.encode(), b"")
    return state


def crash_everywhere(root: str, *, overwrite: bool, every: int) -> int:
    """Kill at each `every`-th point; returns the number of points that there are."""
    finished = f"{root}/finished"
    if overwrite:
        attempt(config_of(finished, *OLD), overwrite=False)
    straight = f"{root}/straight"
    if overwrite:
        copy(finished, straight)
    with Crash().armed() as counting:
        attempt(config_of(straight, *NEW), overwrite=overwrite)
    expected = state_of(straight)
    assert len([name for name in expected if name.endswith("manifest.json")]) == 8
    for point in range(1, counting.num_points + 1, every):
        run_dir = f"{root}/killed-{point}"
        if overwrite:
            copy(finished, run_dir)
        with Crash(at=point).armed(), pytest.raises(Killed):
            attempt(config_of(run_dir, *NEW), overwrite=overwrite)
        attempt(config_of(run_dir, *NEW), overwrite=overwrite)
        left = state_of(run_dir)
        assert sorted(without_temporary(left)) == sorted(expected), f"point {point}"
        for name, content in expected.items():
            assert left[name] == content, f"point {point}: {name}"
        RunFolder(run_dir).delete("")
    return counting.num_points


def every(usual: int) -> int:
    """The distance between two points that are tried."""
    return int(os.environ.get("COTRAY_CRASH_POINTS_EVERY", usual))


def without_temporary(state: dict[str, Any]) -> dict[str, Any]:
    """A file whose process was killed before it got its name stays; no reader looks at it."""
    return {name: each for name, each in state.items() if not name.rpartition("/")[2].startswith(".")}


def copy(source: str, target: str) -> None:
    fs, path = filesystem(source)
    pafs.copy_files(path, filesystem(target)[1], source_filesystem=fs, destination_filesystem=fs)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with serve() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="crash")
        yield "s3://crash/runs"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_killed_at_any_change_of_a_local_disk_ends_as_the_undisturbed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    monkeypatch.setenv("PYTEST_SCRATCH", str(tmp_path / "scratch"))
    num_points = crash_everywhere(str(tmp_path / "runs"), overwrite=overwrite, every=every(7))
    print(f"{num_points} points on a local disk, overwrite={overwrite}")
    assert num_points > 100


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_killed_at_any_change_of_s3_ends_as_the_undisturbed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3: str, overwrite: bool
) -> None:
    monkeypatch.setenv("PYTEST_SCRATCH", str(tmp_path / "scratch"))
    num_points = crash_everywhere(s3, overwrite=overwrite, every=every(53))
    print(f"{num_points} points on S3, overwrite={overwrite}")
    assert num_points > 60
