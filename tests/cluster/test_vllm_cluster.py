"""The vLLM teacher in a Ray Data pool; its engine process is killed in mid-run."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from local_ray import local_ray

from cotray.config import RayConfig, RunConfig, parse_config
from cotray.pools.ray_cluster import cluster
from cotray.records import Rationale, TeacherRequest
from cotray.stages.generate import generate
from cotray.stages.prepare import prepare
from cotray.storage.run_folder import RunFolder

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.long]


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    """Replicas with vLLM's engine in a process of its own, as on GPUs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
        with local_ray(num_cpus=4), cluster(RayConfig()):
            yield


def config(run_dir: Path, engine: str) -> RunConfig:
    return parse_config(
        {
            "run_dir": str(run_dir),
            "method": "contrast-wrong+counterfactual",
            "teacher": {
                "engine": engine,
                "model": "random:llama",
                "batch_size": 16,
                "num_demonstrations": 1,
                "engine_args": {"max_model_len": 2048} if engine == "vllm" else {},
                "decoding": {"max_new_tokens": 24},
            },
        }
    )


def kill_one_engine(folder: RunFolder, killed: list[int], stop: threading.Event) -> None:
    """Once the first rationales are written, by process id, among this test's own descendants."""
    while not stop.wait(0.05):
        if not folder.parquet_files("rationales", recursive=True):
            continue
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if "EngineCore" in process.name() or "EngineCore" in " ".join(process.cmdline()):
                    process.kill()
                    killed.append(process.pid)
                    return


def test_a_killed_engine_is_replaced_and_every_rationale_is_there_once(ray_cluster, tmp_path: Path) -> None:
    settings = config(tmp_path / "run", "vllm")
    prepare(settings)
    folder, killed, stop = RunFolder(settings.run_dir), list[int](), threading.Event()
    killer = threading.Thread(target=kill_one_engine, args=(folder, killed, stop))
    killer.start()
    try:
        manifest = generate(settings)
    finally:
        stop.set()
        killer.join()
    assert len(killed) == 1, "the run was over before its engine could be killed"
    made = list(folder.read_records("rationales", Rationale))
    asked = sorted((row.id, row.kind) for row in folder.read_records("requests", TeacherRequest))
    assert sorted((row.id, row.kind) for row in made) == asked
    assert manifest.num_in == len(asked) > 400
    assert not [row.error for row in made if "empty rationale" not in row.error and row.error]

    undisturbed = config(tmp_path / "other", "transformers")
    prepare(undisturbed)
    generate(undisturbed)
    expected = {
        (r.id, r.kind): r.rationale
        for r in RunFolder(undisturbed.run_dir).read_records("rationales", Rationale)
    }
    assert {(row.id, row.kind): row.rationale for row in made} == expected
