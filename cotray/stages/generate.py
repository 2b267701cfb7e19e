"""generate: requests/ -> rationales/, by a pool of teachers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cotray.config import RunConfig, TeacherConfig
from cotray.data.demonstrations import own_demonstrations
from cotray.data.prepare import settings_of as prepare_settings
from cotray.models.locations import weights_identity
from cotray.pools.failure_causes import causes_of
from cotray.pools.pool import PoolResult, run_pool
from cotray.pools.replica import PoolStage, Process
from cotray.prompts.teacher import Demonstrations, render_request
from cotray.prompts.teacher_chat import TeacherChat, fields_of
from cotray.prompts.teacher_prompts import teacher_prompt_version
from cotray.records import Rationale, TeacherRequest
from cotray.stages.endpoint import endpoint_metrics, num_batches_at_once, read_key, teach_over_api
from cotray.storage.lease import Fence, lease
from cotray.storage.manifest import Manifest, fingerprint
from cotray.storage.run_folder import DeadLetter, RunFolder
from cotray.storage.shards import Shards
from cotray.teacher.teacher import build_teacher, process_environment


def generate(
    config: RunConfig,
    *,
    overwrite: bool = False,
    reuse_from: Sequence[str] = (),
    account: str | None = None,
    label: str = "generate",
) -> Manifest:
    """Run the stage, or return its manifest if it is done.

    `reuse_from` names run folders whose rationales are taken over where they were made from the same
    requests under the same decoding. `account`: as of `open_endpoint`.
    """
    with lease(config.run_dir, "generate") as fence:
        return _generate(
            config, fence, overwrite=overwrite, reuse_from=reuse_from, account=account, label=label
        )


def current_rationales(config: RunConfig, folder: RunFolder) -> Manifest:
    """The manifest of rationales/, made under this configuration from the requests that are there now.

    Those of a method with counterfactual rationales serve the same method without them too. Raises
    DataError or StageError, naming the verb to run, where there is none.
    """
    requests = folder.require("requests", "prepare", settings=prepare_settings(config))
    settings, there = settings_of(config), folder.manifest("rationales")
    if there is not None and set(settings["kinds"]) <= set(there.settings.get("kinds", ())):
        settings["kinds"] = there.settings["kinds"]
    return folder.require("rationales", "generate", settings=settings, input=requests.fingerprint)


def _generate(
    config: RunConfig,
    fence: Fence,
    *,
    overwrite: bool,
    reuse_from: Sequence[str],
    account: str | None,
    label: str,
) -> Manifest:
    folder = RunFolder(config.run_dir)
    requests = folder.require("requests", "prepare", settings=prepare_settings(config))
    settings = settings_of(config)
    state = folder.begin("rationales", settings=settings, input=requests.fingerprint, overwrite=overwrite)
    if state == "done":
        return folder.require("rationales", "generate")
    shards = Shards(
        folder.root,
        "requests",
        "rationales",
        Rationale,
        fingerprint(settings, requests.fingerprint),
        partial(_is_of_kind, settings["kinds"]),
        config.num_draws,
        fence=fence,
        source_version=requests.version,
    )
    for other in reuse_from:
        _reuse(RunFolder(other), shards, settings, requests.fingerprint)
    total = sum(requests.metrics.get(f"kind/{kind}", 0) for kind in settings["kinds"])
    return write_rationales(
        config, folder, shards, settings, requests.fingerprint, total=total, account=account, label=label
    )


def write_rationales(
    config: RunConfig,
    folder: RunFolder,
    shards: Shards,
    settings: dict[str, Any],
    input: str,
    *,
    total: int,
    account: str | None,
    label: str,
) -> Manifest:
    """Let the teacher answer `total` wanted requests of `shards`, and finish their target stage, which was
    begun in `folder`."""
    stage = PoolStage(
        shards,
        TeacherRequest,
        build=_builder(config, account),
        num_batches_at_once=_num_batches_at_once(config),
        failed=partial(_failed, config),
        dead_letter=partial(_dead_letter, config, shards.target),
        max_error_rate=config.teacher.max_error_rate,
        environment=process_environment(config.teacher),
    )
    # Copying what people wrote needs no GPU.
    pool = TeacherConfig(num_cpus=1) if config.decoding_method == "human" else config.teacher
    pooled = run_pool(stage, total=total, config=pool, batch_size=config.teacher.batch_size, label=label)
    shards.fence.check()
    more = endpoint_metrics(config, folder, "rationales") if config.decoding_method != "human" else {}
    return _finish(folder, shards.target, settings, input, pooled, more)


def _num_batches_at_once(config: RunConfig) -> int:
    if config.teacher.engine == "openai":
        return num_batches_at_once(config, config.teacher.batch_size)
    # The next batch joins while the longest rationales of this one are still decoded.
    return 2 if config.teacher.engine == "vllm" else 1


def _builder(config: RunConfig, account: str | None) -> Callable[[], Process]:
    """What makes the teacher, on its replica."""
    own = own_demonstrations(config)
    if config.teacher.engine == "openai" and config.decoding_method != "human":
        return partial(teach_over_api, config, own, read_key(config), account)
    return partial(_teach, config, own)


def _teach(config: RunConfig, own: Demonstrations) -> Process:
    teacher = config.teacher.model_copy(update={"dtype": config.teacher.resolved_dtype(config.teacher.dtype)})
    return build_teacher(teacher, method=config.decoding_method, seed=config.seed, own=own).generate


def _failed(config: RunConfig, request: TeacherRequest, error: str, attempts: int) -> list[Rationale]:
    row = request.to_row() | {"method": config.decoding_method, "teacher": config.teacher.model}
    return [
        Rationale.from_row(row | {"sample": sample, "error": error, "attempts": attempts})
        for sample in range(config.num_draws)
    ]


def _is_of_kind(kinds: Sequence[str], table: pa.Table) -> Any:
    return pc.is_in(table["kind"], pa.array(kinds))  # type: ignore[attr-defined]


def settings_of(config: RunConfig) -> dict[str, Any]:
    """What rationales depend on; the number of replicas or of pairs at once is not among it."""
    teacher = config.teacher.model_dump(
        include={"engine", "model", "revision", "dtype", "num_demonstrations", "record_scores", "decoding"}
    )
    kinds = ["factual", "counterfactual"] if config.counterfactual_weight > 0 else ["factual"]
    if config.decoding_method == "human":
        return {"method": "human", "kinds": kinds}
    teacher["dtype"] = config.teacher.resolved_dtype(config.teacher.dtype)
    if identity := weights_identity(config.teacher.model):
        teacher["weights"] = identity
    if teacher["decoding"]["stop"] == "line":  # as it was before there was a choice
        del teacher["decoding"]["stop"]
    own = own_demonstrations(config)
    teacher["prompts"] = teacher_prompt_version(config.teacher, own)
    if config.teacher.engine == "openai":
        teacher["fields"] = fields_of(config.teacher, is_begun=True)
        if config.teacher.prompt == "chat":
            teacher["prompts"] = TeacherChat(config.teacher, own).version
    settings = {"method": config.decoding_method, "kinds": kinds, "teacher": teacher}
    return settings | {"seed": config.seed} if config.teacher.decoding.num_samples else settings


def _reuse(source: RunFolder, shards: Shards, settings: dict[str, Any], requests: str) -> None:
    manifest = source.manifest("rationales")
    if manifest is None or manifest.input != requests:
        return
    if manifest.settings | {"kinds": settings["kinds"]} != settings:
        return
    if not set(manifest.settings["kinds"]) <= set(settings["kinds"]):
        return
    shards.adopt_all(source)


def _finish(
    folder: RunFolder,
    stage: str,
    settings: dict[str, Any],
    input: str,
    pooled: PoolResult,
    more: Mapping[str, Any] = MappingProxyType({}),
) -> Manifest:
    """`more`: further metrics."""
    counts = pooled.counts
    num_rows, num_dead = counts["rows"], counts["dead_letters"]
    stops = {key.removeprefix("stop/"): n for key, n in sorted(counts.items()) if key.startswith("stop/")}
    return folder.finish(
        Manifest(
            stage=stage,
            settings=settings,
            input=input,
            num_in=num_rows,
            num_out=num_rows - num_dead,
            num_dead=num_dead,
            metrics={
                "tokens": counts["tokens"],
                "splits": counts["pair_splits"],
                "stop_reasons": stops,
                "causes": dict(causes_of(counts)),
                "last_run": {key: counts[key] for key in ("seconds", "replica_starts", "retries", "made")},
                **more,
            },
        ),
        pooled.files,
        pooled.work,
    )


def _dead_letter(config: RunConfig, stage: str, rationale: Rationale) -> DeadLetter:
    # A chat needs the teacher's tokenizer, which this process has not loaded.
    is_written = config.decoding_method != "human"
    num_demonstrations, prompt = config.teacher.num_demonstrations, ""
    if is_written and config.teacher.prompt == "completion":
        prompt = render_request(rationale, num_demonstrations=num_demonstrations).grounded
    elif is_written and config.teacher.engine == "openai":
        chat = TeacherChat(config.teacher, own_demonstrations(config))
        prompt = json.dumps(chat.explaining(rationale), ensure_ascii=False)
    row = json.dumps(rationale.to_row())
    return DeadLetter(stage, rationale.id, rationale.error, row, rationale.attempts, prompt)
