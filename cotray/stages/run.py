"""The verbs as the command line calls them: configuration in, a summary for the terminal out."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from threading import Thread

from cotray.config import RunConfig, dump_config
from cotray.data.few_answers import labels_of
from cotray.errors import StageInUse
from cotray.export.cards import write_cards
from cotray.pools.ray_cluster import cluster
from cotray.scoring.constant_answers import constant
from cotray.scoring.writing import untrained
from cotray.stages.assess import assess
from cotray.stages.generate import generate
from cotray.stages.overwrite_preview import overwrite_preview
from cotray.stages.preflight import check, tell_what_lacks
from cotray.stages.prepare import prepare
from cotray.stages.probe import probe
from cotray.stages.score import score
from cotray.stages.train import train
from cotray.storage.run_folder import Manifest, RunFolder

WAIT_S = 2
"""Between two looks at whether another process has ended."""


def prepare_verb(config: RunConfig, overwrite: bool, wait: bool = False) -> str:
    from cotray.report.table import MIN_QUESTIONS

    summary = _single(config, prepare, overwrite, wait)
    counts = RunFolder(config.run_dir).require("requests", "prepare").metrics
    layouts = [key.removeprefix("layout/") for key in counts if key.startswith("layout/")]
    dead = Counter({key: n for key, n in counts.items() if key.startswith("reason/")})
    notes = [f"{n:,} x {key.removeprefix('reason/')}" for key, n in dead.most_common(3)]
    tasks = [f"{n:,} {key.removeprefix('task/')}" for key, n in counts.items() if key.startswith("task/")]
    notes += [f"read as: {', '.join(layouts)}; {', '.join(tasks)}"] if layouts else []
    test = counts.get("split/test", 0)
    sizes = f"train {counts.get('split/train', 0):,}, dev {counts.get('split/dev', 0):,}, test {test:,}"
    notes.append(
        sizes
        if test >= MIN_QUESTIONS
        else f"{sizes}: below {MIN_QUESTIONS} test questions a report shows no figures; raise "
        "data.test_fraction, or data.limit where it is set"
    )
    if labels := _labels_of_open(RunFolder(config.run_dir)):
        notes.append(
            f"open questions have {len(labels)} answers again and again; if those are their choices, say "
            f"data.labels: {json.dumps(labels, ensure_ascii=False)}, so that models are told them"
        )
    if counts.get("made_ids"):
        notes.append(f"{counts['made_ids']:,} rows had no id; one was made from question and choices")
    if counts.get("merged"):
        notes.append(f"{counts['merged']:,} rows repeated a choice, which counts once")
    return "\n".join([summary, *notes])


def _labels_of_open(folder: RunFolder) -> tuple[str, ...]:
    """What may be labels among the answers of open questions, by the first shard."""
    first = folder.parquet_files("requests")[0]
    rows = folder.read_table(folder.name_of(first), ["task", "answer", "kind"]).to_pylist()
    asked = (row for row in rows if row["task"] == "open" and row["kind"] == "factual")
    return labels_of(row["answer"] for row in asked)


def generate_verb(config: RunConfig, overwrite: bool, wait: bool = False) -> str:
    summary = _single(config, generate, overwrite, wait)
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
    if used := metrics.get("endpoint"):
        cost = "" if used["cost"] is None else f", cost {used['cost']:.4g}"
        rows["endpoint"] = (
            f"{used['requests']:,} requests, {used['tokens_in']:,} tokens read, "
            f"{used['tokens_out']:,} written{cost}"
        )
    lines = [f"{name:<14}{value}" for name, value in rows.items()]
    worst = Counter(metrics["causes"]).most_common(5)
    return "\n".join([*lines, *(f"{'':<14}{count:,} x {cause}" for cause, count in worst)])


def assess_verb(config: RunConfig, overwrite: bool, wait: bool = False) -> str:
    from cotray.report.table import quality_lines

    summary = _single(config, assess, overwrite, wait)
    return f"{summary}\n{quality_lines(RunFolder(config.run_dir).require('assessments', 'assess').metrics)}"


def train_verb(config: RunConfig, overwrite: bool, wait: bool = False) -> str:
    from cotray.report.table import conseq_lines

    summary = _single(config, train, overwrite, wait)
    figures = RunFolder(config.run_dir).require("student", "train").metrics.get("conseq")
    return f"{summary}\n{conseq_lines(figures)}" if figures else summary


def score_verb(config: RunConfig, overwrite: bool, wait: bool = False) -> str:
    from cotray.report.table import interval, number

    summary = _single(config, score, overwrite, wait)
    write_cards(config)
    folder = RunFolder(config.run_dir)
    figures = folder.require("simulations", "score").metrics
    warned = [
        untrained(folder.require("answers", "score").metrics.get("writing")),
        constant(figures.get("commonest_answers")),
    ]
    las = figures["las"]
    return (
        f"{summary}\nLAS {number(las['las'])} {interval(las['ci95'])}"
        f"{' (' + las['reason'] + ')' if las['reason'] else ''}, simulation gain {number(las['sim_gain'])}, "
        f"leak rate {number(las['leak_rate'])}, accuracy {number(figures['accuracy']['value'])}"
        f"{''.join(f'{chr(10)}warning: {said}' for said in warned if said)}"
    )


def probe_verb(config: RunConfig, overwrite: bool, wait: bool = False) -> str:
    from cotray.report.table import probing_lines

    summary = _single(config, probe, overwrite, wait)
    return f"{summary}\n{probing_lines(RunFolder(config.run_dir).require('probes', 'probe').metrics)}"


def serve_verb(config: RunConfig, overwrite: bool, wait: bool = False) -> str:
    from cotray.stages.serve import serve

    return serve(config)


def run_verb(config: RunConfig, overwrite: bool, wait: bool = False) -> str:
    """Every method in a folder of its own; one that is done costs nothing, decoded once is never twice."""
    from cotray.report.report import report

    configs = [config.for_method(method) for method in config.methods]
    check(configs, "run")
    _write_config(config, if_missing=True)
    started = time.monotonic()
    with cluster(config.ray, config.storage):
        tell_what_lacks(configs, "run")
        Thread(target=_import_ahead, daemon=True).start()
        for position, method in enumerate(config.methods, start=1):
            earlier = [config.for_method(m).run_dir for m in config.methods[: position - 1]]
            label = f"{position}/{len(config.methods)} {method}"
            one = config.for_method(method)
            if overwrite:
                print(overwrite_preview(one, "run"), file=sys.stderr, flush=True)
            run_stages(
                one,
                overwrite=overwrite,
                wait=wait,
                reuse_from=earlier,
                account=config.run_dir,
                label=label,
            )
    _write_config(config)
    return f"{report(config)}\ntime: {time.monotonic() - started:.0f} s"


def _import_ahead() -> None:
    """What this process needs when training begins, imported while others write rationales: about 4 s."""
    import ray.train.torch  # noqa: F401
    from transformers import AutoConfig, AutoTokenizer  # noqa: F401


def run_stages(
    config: RunConfig,
    *,
    overwrite: bool = False,
    wait: bool = False,
    reuse_from: Sequence[str],
    account: str | None = None,
    label: str,
) -> None:
    """One method from questions to figures, on the running cluster; `reuse_from` and `account` as of
    `generate`.

    `wait`: where another process is at work on a verb in the same folder, until it has ended.
    """
    _write_config(config, if_missing=True)
    reusing = {"reuse_from": reuse_from}
    paying = reusing | {"account": account}
    stages = [(prepare, {}), (generate, paying), (train, {}), (score, paying)]
    if config.assessing.measures:
        stages.insert(2, (assess, reusing))
    if config.probing.measures:
        stages.append((probe, {"account": account}))
    for stage, options in stages:
        name = f"{label} {stage.__name__}"
        wait_until_free(wait, partial(stage, config, overwrite=overwrite, label=name, **options))
    _write_config(config)
    write_cards(config)


def wait_until_free(wait: bool, work: Callable[[], Manifest]) -> Manifest:
    """The stage's manifest; raises StageInUse if another process makes the stage and we are not to wait."""
    is_told = False
    while True:
        try:
            return work()
        except StageInUse as other:
            if not wait:
                raise
            if not is_told:
                print(f"waiting: {other}", file=sys.stderr, flush=True)
            is_told = True
            time.sleep(WAIT_S)


def _single(config: RunConfig, stage: Callable[..., Manifest], overwrite: bool, wait: bool) -> str:
    check([config], stage.__name__)
    _write_config(config, if_missing=True)
    # Questions are read in this process, unless a teacher ranks their wrong answers.
    needs_cluster = stage is not prepare or config.perturbation == "hardest"
    with cluster(config.ray, config.storage) if needs_cluster else contextlib.nullcontext():
        if needs_cluster:
            tell_what_lacks([config], stage.__name__)
        if overwrite:
            print(overwrite_preview(config, stage.__name__), file=sys.stderr, flush=True)
        manifest = wait_until_free(wait, partial(stage, config, overwrite=overwrite))
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
