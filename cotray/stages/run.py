"""The verbs as the command line calls them: configuration in, a summary for the terminal out."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections import Counter
from collections.abc import Sequence

from cotray.config import RunConfig, dump_config
from cotray.data.store import Manifest, RunFolder
from cotray.stages.assess import assess
from cotray.stages.cluster import cluster
from cotray.stages.generate import generate
from cotray.stages.prepare import prepare
from cotray.stages.score import score
from cotray.stages.train import train


def prepare_verb(config: RunConfig, overwrite: bool) -> str:
    return _single(config, prepare, overwrite)


def generate_verb(config: RunConfig, overwrite: bool) -> str:
    summary = _single(config, generate, overwrite)
    manifest = RunFolder(config.run_dir).require("rationales", "generate")
    return f"{summary}\n{_generated(manifest)}"


def _generated(manifest: Manifest) -> str:
    """The final table of `generate`."""
    metrics, run = manifest.metrics, manifest.metrics["last_run"]
    stops = ", ".join(f"{reason} {count:,}" for reason, count in metrics["stop_reasons"].items())
    rows = {
        "rationales": f"{manifest.num_out:,} of {manifest.num_in:,} requests",
        "tokens": f"{metrics['tokens']:,}, {metrics['tokens'] / max(1, manifest.num_out):.1f} per rationale",
        "stopped by": stops or "-",
        "pair splits": f"{metrics['splits']:,}",
        "last run": f"{run['made']:,} rows in {run['seconds']:,} s, {run['replica_starts']} replica starts, "
        f"{run['retries']:,} retries",
        "dead letters": f"{manifest.num_dead:,}",
    }
    lines = [f"{name:<14}{value}" for name, value in rows.items()]
    worst = Counter(metrics["causes"]).most_common(5)
    return "\n".join([*lines, *(f"{'':<14}{count:,} x {cause}" for cause, count in worst)])


def assess_verb(config: RunConfig, overwrite: bool) -> str:
    from cotray.report.table import quality_lines

    summary = _single(config, assess, overwrite)
    return f"{summary}\n{quality_lines(RunFolder(config.run_dir).require('assessments', 'assess').metrics)}"


def train_verb(config: RunConfig, overwrite: bool) -> str:
    from cotray.report.table import conseq_lines

    summary = _single(config, train, overwrite)
    figures = RunFolder(config.run_dir).require("student", "train").metrics.get("conseq")
    return f"{summary}\n{conseq_lines(figures)}" if figures else summary


def score_verb(config: RunConfig, overwrite: bool) -> str:
    from cotray.report.table import interval, number

    summary = _single(config, score, overwrite)
    figures = RunFolder(config.run_dir).require("simulations", "score").metrics
    las = figures["las"]
    return (
        f"{summary}\nLAS {number(las['las'])} {interval(las['ci95'])}"
        f"{' (' + las['reason'] + ')' if las['reason'] else ''}, simulation gain {number(las['sim_gain'])}, "
        f"leak rate {number(las['leak_rate'])}, accuracy {number(figures['accuracy']['value'])}"
    )


def serve_verb(config: RunConfig, overwrite: bool) -> str:
    """Serve until interrupted or terminated; requests under way are finished then."""
    from cotray.stages.serve import deployed

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    serving = config.serving
    with cluster(config.ray, config.storage):
        before = signal.signal(signal.SIGTERM, stop)
        try:
            with contextlib.suppress(KeyboardInterrupt), deployed(config):
                print(f"serving on http://{serving.host}:{serving.port}/v1; Ctrl-C ends it", flush=True)
                threading.Event().wait()
        finally:
            signal.signal(signal.SIGTERM, before)
    return "stopped"


def run_verb(config: RunConfig, overwrite: bool) -> str:
    """Every method in a folder of its own; one that is done costs nothing, decoded once is never twice."""
    from cotray.report.report import report

    _write_config(config, if_missing=True)
    started = time.monotonic()
    with cluster(config.ray, config.storage):
        for position, method in enumerate(config.methods, start=1):
            earlier = [config.for_method(m).run_dir for m in config.methods[: position - 1]]
            label = f"{position}/{len(config.methods)} {method}"
            run_stages(config.for_method(method), overwrite=overwrite, reuse_from=earlier, label=label)
    _write_config(config)
    return f"{report(config)}\ntime: {time.monotonic() - started:.0f} s"


def run_stages(config: RunConfig, *, overwrite: bool = False, reuse_from: Sequence[str], label: str) -> None:
    """One method from questions to figures, on the running cluster; `reuse_from` as of `generate`."""
    _write_config(config, if_missing=True)
    prepare(config, overwrite=overwrite, label=f"{label} prepare")
    generate(config, overwrite=overwrite, reuse_from=reuse_from, label=f"{label} generate")
    if config.assessing.measures:
        assess(config, overwrite=overwrite, reuse_from=reuse_from, label=f"{label} assess")
    train(config, overwrite=overwrite, label=f"{label} train")
    score(config, overwrite=overwrite, reuse_from=reuse_from, label=f"{label} score")
    _write_config(config)


def _single(config: RunConfig, stage, overwrite: bool) -> str:
    _write_config(config, if_missing=True)
    with cluster(config.ray, config.storage):
        manifest: Manifest = stage(config, overwrite=overwrite)
    _write_config(config)
    dead = f", {manifest.num_dead} dead letters (in dead_letter/)" if manifest.num_dead else ""
    return (
        f"{RunFolder(config.run_dir).uri(manifest.stage)}: {manifest.num_in} in, {manifest.num_out} out{dead}"
    )


def _write_config(config: RunConfig, *, if_missing: bool = False) -> None:
    """Before a stage only where there is none: a refused configuration must not replace that of the rows."""
    folder = RunFolder(config.run_dir)
    if not (if_missing and folder.exists("config.yaml")):
        folder.write_bytes("config.yaml", dump_config(config).encode())
