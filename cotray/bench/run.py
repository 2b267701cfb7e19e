"""Where the time of a whole run goes: seconds of start, work and end of every stage of the demo.

    cotray bench run --json -

A stage's work is from its first row or step to its last; what is before and after it is overhead: starting
processes, loading models, sealing files, taking a training group down. Models of the world are made before,
and timed apart, because they are made once on a machine.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cotray.config import RunConfig, load_config
from cotray.storage.run_folder import VERB_OF, RunFolder

DEMO = Path(__file__).with_name("demo.yaml")


def bench_run() -> dict[str, Any]:
    """Flat figures; `total_s` is what `make demo` takes after installation, models included."""
    from cotray.models.locations import model_path

    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="cotray-bench-") as scratch:
        config = load_config(DEMO, [f"run_dir={scratch}/demo"])
        for model in (config.teacher.model, config.student.model, config.simulator.model):
            model_path(model, cache=Path(scratch) / "cache")
        models_s = time.monotonic() - began
        command = [sys.executable, "-m", "cotray.cli", "run", "-c", str(DEMO), f"run_dir={scratch}/demo"]
        subprocess.run(command, check=True, env=os.environ | {"COTRAY_CACHE": f"{scratch}/cache"})
        total_s = time.monotonic() - began
        figures = _figures(config)
    return {"total_s": round(total_s, 1), "models_s": round(models_s, 1), **figures}


def _figures(config: RunConfig) -> dict[str, Any]:
    """Of every stage with its times, and what a method costs beside its work."""
    figures: dict[str, float] = {}
    overhead = []
    print(f"\n{'method':<32}{'stage':<14}{'start':>8}{'work':>8}{'end':>8}")
    for method in config.methods:
        folder = RunFolder(config.for_method(method).run_dir)
        of_method = 0.0
        for stage in VERB_OF:
            manifest = folder.manifest(stage)
            if manifest is None or not manifest.times:
                continue
            times = {part: manifest.times[part] for part in ("start_s", "work_s", "end_s")}
            print(f"{method:<32}{stage:<14}" + "".join(f"{seconds:>8.1f}" for seconds in times.values()))
            figures |= {f"{method}/{stage}/{name}": seconds for name, seconds in times.items()}
            of_method += times["start_s"] + times["end_s"]
        overhead.append(of_method)
    return {
        "overhead_s_per_method": round(statistics.fmean(overhead), 1),
        "overhead_s_of_the_last": round(overhead[-1], 1),
        **figures,
    }
