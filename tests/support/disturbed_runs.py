"""Whole runs in one process, for tests that disturb them: the real storage code, a fake teacher and stand-ins
for Ray and the models."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

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

CONFIG = Path(__file__).parents[2] / "jobs" / "configs" / "smoke.yaml"
MODULES = (filesystems, folder, checkpoints, lease)
"""Those that change the storage."""


def put_stand_ins(monkeypatch: pytest.MonkeyPatch, scratch: Path) -> None:
    """No Ray and no models; each attempt is a process of its own to the leases. `scratch`: of the trainer."""
    monkeypatch.setenv("PYTEST_SCRATCH", str(scratch))
    for module in (generate, score):
        monkeypatch.setattr(module, "run_pool", pool_in_this_process)
    for module in (train, simulator):
        monkeypatch.setattr(module, "fit", fit_without_a_model)
    monkeypatch.setattr(placement, "wait_until_placed", lambda *_, **__: None)
    monkeypatch.setattr(score, "_load_student", lambda *_: answer)
    monkeypatch.setattr(score, "_load_simulator", lambda *_: simulate)
    monkeypatch.setattr(lease, "_start_of", lambda _: str(ATTEMPT["number"]))
    # How often the lease gives a sign of life depends on the machine, and each is a change of the storage.
    monkeypatch.setattr(lease, "BEAT_S", 1e6)


ATTEMPT = Counter(number=0)


def pool_in_this_process(stage: Any, **_: Any) -> PoolResult:
    shards, process = stage.shards, stage.build()
    for shard in shards.snapshot():
        rows = shards.waiting(shard).to_pylist()
        for start in range(0, len(rows), 8):
            records = [stage.source_record.from_row(row) for row in rows[start : start + 8]]
            shards.write(shard.name, process(records, on_finished=lambda _: None))
    sealed = [_seal_shard(stage, shard, True) for shard in shards.snapshot()]
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


def copy(source: str, target: str) -> None:
    fs, path = filesystem(source)
    pafs.copy_files(path, filesystem(target)[1], source_filesystem=fs, destination_filesystem=fs)
