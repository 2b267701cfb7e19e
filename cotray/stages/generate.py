"""generate: requests/ -> rationales/, by a pool of teachers."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cotray.config import RunConfig
from cotray.data.store import DeadLetter, Manifest, RunFolder
from cotray.errors import StageError
from cotray.prompts.teacher import render_request
from cotray.records import Rationale, TeacherRequest
from cotray.stages.pool import PoolStage, Process, run_pool
from cotray.teacher.teacher import build_teacher, process_environment


def generate(
    config: RunConfig, *, overwrite: bool = False, reuse_from: Sequence[str] = (), label: str = "generate"
) -> Manifest:
    """Run the stage, or return its manifest if it is done.

    `reuse_from` names run folders whose rationales are taken over where they were made from the same
    requests under the same decoding.
    """
    folder = RunFolder(config.run_dir)
    requests = folder.require("requests", "prepare")
    settings = _settings(config)
    state = folder.begin("rationales", settings=settings, input=requests.fingerprint, overwrite=overwrite)
    if state == "done":
        return folder.require("rationales", "generate")
    for other in reuse_from:
        _reuse(RunFolder(other), folder, settings, requests.fingerprint)
    stage = PoolStage(
        source="requests",
        target="rationales",
        source_record=TeacherRequest,
        target_record=Rationale,
        build=partial(_teach, config),
        is_wanted=partial(_is_of_kind, settings["kinds"]),
        num_per_record=config.teacher.decoding.num_draws,
        # The next batch joins while the longest rationales of this one are still decoded.
        num_batches_at_once=2 if config.teacher.engine == "vllm" else 1,
        failed=partial(_failed, config),
        environment=process_environment(config.teacher),
    )
    total = sum(requests.metrics.get(f"kind/{kind}", 0) for kind in settings["kinds"])
    teacher = config.teacher
    run_pool(folder, stage, total=total, pool=teacher.pool, batch_size=teacher.batch_size, label=label)
    return _finish(folder, config, settings, requests, total * stage.num_per_record)


def _teach(config: RunConfig) -> Process:
    return build_teacher(config.teacher, method=config.decoding_method, seed=config.seed).generate


def _failed(config: RunConfig, request: TeacherRequest, error: str, attempts: int) -> list[Rationale]:
    row = request.to_row() | {"method": config.decoding_method, "teacher": config.teacher.model}
    num_draws = config.teacher.decoding.num_draws
    return [
        Rationale.from_row(row | {"sample": sample, "error": error, "attempts": attempts})
        for sample in range(num_draws)
    ]


def _is_of_kind(kinds: Sequence[str], table: pa.Table) -> Any:
    return pc.is_in(table["kind"], pa.array(kinds))  # type: ignore[attr-defined]


def _settings(config: RunConfig) -> dict[str, Any]:
    """What rationales depend on; the number of replicas or of pairs at once is not among it."""
    teacher = config.teacher.model_dump(
        include={"engine", "model", "revision", "dtype", "num_demonstrations", "record_scores", "decoding"}
    )
    kinds = ["factual", "counterfactual"] if config.counterfactual_weight > 0 else ["factual"]
    settings = {"method": config.decoding_method, "kinds": kinds, "teacher": teacher}
    return settings | {"seed": config.seed} if config.teacher.decoding.num_samples else settings


def _reuse(source: RunFolder, target: RunFolder, settings: dict[str, Any], requests: str) -> None:
    manifest = source.manifest("rationales")
    if manifest is None or manifest.input != requests:
        return
    if manifest.settings | {"kinds": settings["kinds"]} != settings:
        return
    if not set(manifest.settings["kinds"]) <= set(settings["kinds"]):
        return
    for path in source.parquet_files("rationales"):
        name = f"rationales/{path.rpartition('/')[2]}"
        target.write_bytes(name, source.read_bytes(name))


def _finish(
    folder: RunFolder, config: RunConfig, settings: dict[str, Any], requests: Manifest, total: int
) -> Manifest:
    """Count what is there, keep the failures as dead letters, and write the manifest."""
    num_tokens, num_rows, num_splits, stops, letters = 0, 0, 0, Counter(), list[DeadLetter]()
    for rationale in folder.read_records("rationales", Rationale):
        num_rows += 1
        num_tokens += rationale.num_tokens
        num_splits += rationale.splits
        stops[rationale.stop_reason or "error"] += 1
        if rationale.error:
            letters.append(_dead_letter(rationale, config))
    assert num_rows == total, (num_rows, total)
    folder.write_dead_letters("rationales", letters)
    if len(letters) > config.teacher.max_error_rate * num_rows or len(letters) == num_rows:
        # Causes that differ in numbers alone are one cause.
        causes = Counter(re.sub(r"\d+", "N", letter.reason) for letter in letters).most_common(3)
        shown = "; ".join(f"{count} x {reason}" for reason, count in causes)
        raise StageError(
            f"{folder.uri('rationales')}: {len(letters)} of {num_rows} requests failed ({shown}). Each is in "
            f"{folder.uri('dead_letter/rationales.parquet')}; teacher.max_error_rate="
            f"{config.teacher.max_error_rate:g} allows fewer"
        )
    metrics = {"tokens": num_tokens, "splits": num_splits, "stop_reasons": dict(stops)}
    folder.append_metrics([{f"generate/{key}": value for key, value in metrics.items()}])
    return folder.finish(
        Manifest(
            stage="rationales",
            settings=settings,
            input=requests.fingerprint,
            num_in=num_rows,
            num_out=num_rows - len(letters),
            num_dead=len(letters),
            metrics=metrics,
        )
    )


def _dead_letter(rationale: Rationale, config: RunConfig) -> DeadLetter:
    prompt = render_request(rationale, num_demonstrations=config.teacher.num_demonstrations).grounded
    row = json.dumps(rationale.to_row())
    return DeadLetter("rationales", rationale.id, rationale.error, row, rationale.attempts, prompt)
