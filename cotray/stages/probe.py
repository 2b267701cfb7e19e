"""probe: the student is asked again with one thing changed, and figures say whether it uses what it writes.

student/ + rationales/ -> probes/ and the figures in its manifest.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import SecretStr

from cotray.config import RunConfig
from cotray.data.demonstrations import own_demonstrations
from cotray.errors import ConfigError, DataError
from cotray.pools.pool import run_pool
from cotray.pools.replica import PoolStage, Process
from cotray.pools.sorted_batches import in_sorted_batches
from cotray.probing.figures import figures
from cotray.probing.probe import Model
from cotray.probing.probe import probe as ask
from cotray.probing.prober import Prober, most_calls, probe_version
from cotray.prompts.teacher import Demonstrations
from cotray.records import ProbedAnswer, Rationale
from cotray.stages.endpoint import (
    batches_for,
    endpoint_metrics,
    num_batches_at_once,
    read_key,
    student_over_api,
    write_unanswered,
)
from cotray.stages.generate import current_rationales
from cotray.stages.other_rationales import KEY as OTHER_KEY
from cotray.stages.other_rationales import write_other_rationales
from cotray.stages.score import ROWS_PER_CALL, load_student
from cotray.stages.train import current_student
from cotray.storage.lease import Fence, lease
from cotray.storage.manifest import Manifest, fingerprint
from cotray.storage.run_folder import DeadLetter, RunFolder
from cotray.storage.shards import Shards


def probe(
    config: RunConfig, *, overwrite: bool = False, account: str | None = None, label: str = "probe"
) -> Manifest:
    """Run the stage, or return its manifest if it is done. `account`: as of `open_endpoint`."""
    if not config.probing.measures:
        raise ConfigError(
            "probing.measures is empty: name what to measure, such as [early_answering, filler, mistake, "
            "following, hidden_influence]"
        )
    if asks_teacher(config) and config.decoding_method == "human":
        raise ConfigError(
            "probing.measures: following asks what the student answers after rationales for wrong answers, "
            "and people wrote none (method=human); leave following out, or choose another method"
        )
    with lease(config.run_dir, "probe") as fence:
        return _probe(config, fence, account, overwrite=overwrite, label=label)


def _probe(config: RunConfig, fence: Fence, account: str | None, *, overwrite: bool, label: str) -> Manifest:
    folder = RunFolder(config.run_dir)
    student, rationales = current_student(config, folder), current_rationales(config, folder)
    if overwrite or folder.manifest("probes") is None:
        print(f"{label}: {cost(config)}", file=sys.stderr, flush=True)
    source = fingerprint(student.fingerprint, rationales.fingerprint)
    others: list[ProbedAnswer] = []
    if asks_teacher(config):
        written = write_other_rationales(config, folder, fence, account, overwrite=overwrite, label=label)
        source = fingerprint(student.fingerprint, rationales.fingerprint, written.fingerprint)
        own = fingerprint(student.fingerprint, written.fingerprint)
        ask_about = partial(_ask, config, folder, fence, account, overwrite=overwrite, label=label)
        ask_about(written, "other_answers", own, is_wanted=_has_no_error, key=OTHER_KEY)
        others = [row for row in folder.read_records("other_answers", ProbedAnswer) if not row.error]
    return _ask(
        config,
        folder,
        fence,
        account,
        rationales,
        "probes",
        source,
        is_wanted=_is_of_test,
        others=others,
        overwrite=overwrite,
        label=label,
    )


def _ask(
    config: RunConfig,
    folder: RunFolder,
    fence: Fence,
    account: str | None,
    rationales: Manifest,
    target: str,
    input: str,
    *,
    is_wanted: Callable[[pa.Table], Any],
    key: tuple[str, ...] = ("kind", "id"),
    others: Sequence[ProbedAnswer] = (),
    overwrite: bool,
    label: str,
) -> Manifest:
    """Make the stage `target` from rationales; its figures also count `others`."""
    settings = settings_of(config)
    if folder.begin(target, settings=settings, input=input, overwrite=overwrite) == "done":
        return folder.require(target, "probe")
    shards = Shards(
        folder.root,
        rationales.stage,
        target,
        ProbedAnswer,
        fingerprint(settings, input),
        is_wanted,
        key=key,
        fence=fence,
        source_version=rationales.version,
    )
    total, own, pool = shards.num_wanted(), own_demonstrations(config), config.probing
    if not total and target == "probes":
        raise DataError(f"{folder.uri('rationales')}: no test question to probe; raise data.test_fraction")
    build: Callable[[], Process] = partial(_load, config, own, folder.uri("student"))
    num_at_once = 1
    if served := config.probing.served:
        build = partial(_probe_served, config, SecretStr(os.environ.get(served.api_key_env, "").strip()))
        num_at_once = batches_for(served.concurrency, ROWS_PER_CALL)
    if config.asks_endpoint_for_answers:
        build = partial(_probe_over_api, config, own, read_key(config), account, target)
        num_at_once, pool = num_batches_at_once(config, ROWS_PER_CALL), config.teacher
    stage = PoolStage(
        shards,
        Rationale,
        build=build,
        num_batches_at_once=num_at_once,
        failed=_failed,
        dead_letter=partial(_dead_letter, target),
        max_error_rate=config.probing.max_error_rate,
    )
    made = run_pool(stage, total=total, config=pool, batch_size=ROWS_PER_CALL, label=f"{label}: {target}")
    fence.check()
    rows = [row for row in folder.read_records(target, ProbedAnswer) if not row.error]
    metrics = figures([*rows, *others], num_resamples=config.scoring.num_resamples, seed=config.seed)
    if config.asks_endpoint_for_answers:
        metrics |= endpoint_metrics(config, folder, target)
        write_unanswered(folder, target, ProbedAnswer)
    num_dead = made.counts["dead_letters"]
    manifest = Manifest(target, settings, input, total, total - num_dead, num_dead, metrics)
    return folder.finish(manifest, made.files, made.work)


def settings_of(config: RunConfig) -> dict[str, Any]:
    """What the answers to probes depend on, beside the student."""
    return {
        "measures": sorted(config.probing.measures),
        "cues": sorted(config.probing.cues) if "hidden_influence" in config.probing.measures else [],
        "max_new_tokens": config.scoring.max_new_tokens,
        "num_resamples": config.scoring.num_resamples,
        "dtype": config.probing.resolved_dtype("auto"),
        "version": probe_version(),
        "seed": config.seed,
        **({"served": [served.url, served.model]} if (served := config.probing.served) else {}),
    }


def asks_teacher(config: RunConfig) -> bool:
    """Whether rationales for other answers are to be written; the world's are known."""
    return "following" in config.probing.measures and not config.data.is_world


def cost(config: RunConfig) -> str:
    """What is asked about each test question, in a sentence without an end."""
    written, forced = most_calls(config.probing, in_world=config.data.is_world)
    said = f"each test question: at most {written} rationales that the student writes"
    if forced:
        said += f", and {forced} answers after rationales that are given"
    if "following" in config.probing.measures:
        said += "; following: an answer after a rationale for each choice"
        said += ", which the teacher writes for the wrong ones" if asks_teacher(config) else ""
    return said


def _load(config: RunConfig, own: Demonstrations, model: str) -> Process:
    student = load_student(config, own, model, dtype=config.probing.resolved_dtype("auto"))
    return partial(
        in_sorted_batches, partial(ask, student, _prober(config)), config.probing.batch_size, "question"
    )


def _probe_served(config: RunConfig, key: SecretStr) -> Process:
    from cotray.scoring.served_student import ServedStudent

    served = config.probing.served
    assert served is not None
    student = ServedStudent(
        served.url,
        model=served.model,
        key=key.get_secret_value(),
        concurrency=served.concurrency,
        timeout_s=served.timeout_s,
    )
    return _asking(student, _prober(config))


def _probe_over_api(
    config: RunConfig, own: Demonstrations, key: SecretStr, account: str | None, target: str
) -> Process:
    return _asking(student_over_api(config, own, key, account, stage=target), _prober(config))


def _asking(student: Model, prober: Prober) -> Process:
    """Of a student elsewhere, whose batches need not be sorted."""

    def process(rationales: Sequence[Rationale], *, on_finished: Callable[[int], None]) -> list[ProbedAnswer]:
        made = ask(student, prober, rationales)
        for _ in made:
            on_finished(1)
        return made

    return process


def _failed(rationale: Rationale, error: str, attempts: int) -> list[ProbedAnswer]:
    return [
        ProbedAnswer.from_row(rationale.to_row() | {"rationale": "", "error": error, "attempts": attempts})
    ]


def _dead_letter(target: str, row: ProbedAnswer) -> DeadLetter:
    return DeadLetter(target, row.id, row.error, json.dumps(row.to_row()), row.attempts)


def _prober(config: RunConfig) -> Prober:
    world = config.data.world if config.data.is_world else None
    return Prober.of(config.probing, seed=config.seed, world=world)


def _is_of_test(table: pa.Table) -> Any:
    """One rationale per question and kind: the first draw where the teacher sampled several."""
    is_test, is_first = pc.equal(table["split"], "test"), pc.equal(table["sample"], 0)  # type: ignore[attr-defined]
    return pc.and_(is_test, is_first)  # type: ignore[attr-defined]


def _has_no_error(table: pa.Table) -> Any:
    return pc.equal(table["error"], "")  # type: ignore[attr-defined]
