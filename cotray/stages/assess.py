"""assess: rationales/ -> assessments/, the same rows with scores, by a pool of judges."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

import pyarrow as pa
import pyarrow.compute as pc

from cotray.config import RunConfig
from cotray.config.assessing import Split
from cotray.errors import ConfigError
from cotray.pools.pool import run_pool
from cotray.pools.replica import PoolStage, Process
from cotray.pools.sorted_batches import in_sorted_batches
from cotray.prompts.qa_pairs import pair_prompt_version
from cotray.quality.summary import quality
from cotray.records import Assessment, Rationale, TeacherRequest
from cotray.stages.generate import current_rationales
from cotray.storage.lease import Fence, lease
from cotray.storage.manifest import Manifest, fingerprint
from cotray.storage.run_folder import DeadLetter, RunFolder
from cotray.storage.shards import Shards

if TYPE_CHECKING:
    from cotray.quality.assessor import Assessor

ROWS_PER_CALL = 64
"""Given to a replica at a time, which sorts them by length and cuts them into assessing.batch_size."""
POOL = {"replicas", "num_cpus", "num_gpus", "label_selector", "pools"}
POOL |= {"max_attempts", "max_error_rate", "stall_timeout_s"}


def assess(
    config: RunConfig, *, overwrite: bool = False, reuse_from: Sequence[str] = (), label: str = "assess"
) -> Manifest:
    """Run the stage, or return its manifest if it is done. Rationales with an error are left out.

    `reuse_from` names run folders whose scores are taken over where they are of the same rationales under
    the same settings.
    """
    if not config.assessing.measures:
        raise ConfigError("assessing.measures is empty: name what to add, such as [surface, quals]")
    with lease(config.run_dir, "assess") as fence:
        return _assess(config, fence, overwrite=overwrite, reuse_from=reuse_from, label=label)


def _assess(
    config: RunConfig, fence: Fence, *, overwrite: bool, reuse_from: Sequence[str], label: str
) -> Manifest:
    folder = RunFolder(config.run_dir)
    rationales = current_rationales(config, folder)
    settings = settings_of(config)
    state = folder.begin("assessments", settings=settings, input=rationales.fingerprint, overwrite=overwrite)
    if state == "done":
        return folder.require("assessments", "assess")
    version = fingerprint(settings, rationales.fingerprint)
    shards = Shards(
        folder.root,
        "rationales",
        "assessments",
        Assessment,
        version,
        partial(_is_assessed, config.assessing.splits),
        key=("kind", "id", "sample"),
        fence=fence,
        source_version=rationales.version,
    )
    for other in reversed(reuse_from):
        if _reuse(RunFolder(other), folder, shards, settings):
            break
    stage = PoolStage(
        shards,
        Rationale,
        build=partial(_load, config),
        failed=_failed,
        dead_letter=_dead_letter,
        max_error_rate=config.assessing.max_error_rate,
    )
    total = shards.num_wanted()
    counts, files, work = run_pool(
        stage, total=total, config=config.assessing, batch_size=ROWS_PER_CALL, label=label
    )
    fence.check()
    rows = (row for row in folder.read_records("assessments", Assessment) if not row.error)
    last_run = {key: counts[key] for key in ("seconds", "replica_starts", "retries", "made")}
    metrics = quality(rows, seed=config.seed) | {"last_run": last_run}
    num_dead = counts["dead_letters"]
    return folder.finish(
        Manifest("assessments", settings, rationales.fingerprint, total, total - num_dead, num_dead, metrics),
        files,
        work,
    )


def current_assessments(config: RunConfig, folder: RunFolder) -> Manifest:
    """The manifest of assessments/ made under this configuration from the rationales that are there now.

    Raises DataError or StageError, naming the verb to run, where there is none.
    """
    rationales = current_rationales(config, folder)
    return folder.require("assessments", "assess", settings=settings_of(config), input=rationales.fingerprint)


def settings_of(config: RunConfig) -> dict[str, Any]:
    """What scores depend on."""
    settings = config.assessing.model_dump(exclude=POOL | {"rules", "batch_size", "splits"})
    if set(config.assessing.splits) != set(get_args(Split)):
        settings["splits"] = sorted(config.assessing.splits)
    prompts = pair_prompt_version(config.assessing.num_demonstrations)
    settings |= {"prompts": prompts, "seed": config.seed}
    # A model that train_pairs made again in the same folder is another one.
    trained = (
        RunFolder(config.assessing.model).manifest("training") if "/" in config.assessing.model else None
    )
    return settings | ({"trained": trained.fingerprint} if trained else {})


def load_assessor(config: RunConfig) -> Assessor:
    """The judge of this run, with its models."""
    from cotray.quality.assessor import Assessor, OtherFacts

    other_facts = OtherFacts(_some_questions(RunFolder(config.run_dir)), seed=config.seed)
    return Assessor(config.assessing, other_facts=other_facts)


def _load(config: RunConfig) -> Process:
    assess_rows = load_assessor(config).assess
    return partial(in_sorted_batches, assess_rows, config.assessing.batch_size, "rationale")


def _some_questions(folder: RunFolder) -> Sequence[TeacherRequest]:
    """The first file of requests: enough to draw other facts from, and the same for every replica."""
    first = folder.parquet_files("requests")[0].rpartition("/")[2]
    return [TeacherRequest.from_row(row) for row in folder.read_table(f"requests/{first}").to_pylist()]


def _failed(rationale: Rationale, error: str, attempts: int) -> list[Assessment]:
    return [Assessment.from_row(rationale.to_row() | {"error": error, "attempts": attempts})]


def _dead_letter(row: Assessment) -> DeadLetter:
    return DeadLetter("assessments", row.id, row.error, json.dumps(row.to_row()), row.attempts)


def _is_assessed(splits: Sequence[str], table: pa.Table) -> Any:
    is_good = pc.equal(table["error"], "")  # type: ignore[attr-defined]
    return pc.and_(is_good, pc.is_in(table["split"], pa.array(splits)))  # type: ignore[attr-defined]


def _reuse(source: RunFolder, folder: RunFolder, shards: Shards, settings: dict[str, Any]) -> bool:
    """Adopt the scores of the same rationales; a run without counterfactual ones has scores for a part.

    Returns whether there were any.
    """
    there, rationales = source.manifest("assessments"), source.manifest("rationales")
    own = folder.require("rationales", "generate")
    if there is None or rationales is None or there.input != rationales.fingerprint:
        return False
    if there.settings != json.loads(json.dumps(settings)) or rationales.input != own.input:
        return False
    if rationales.settings | {"kinds": own.settings["kinds"]} != own.settings:
        return False
    if not set(rationales.settings["kinds"]) <= set(own.settings["kinds"]):
        return False
    shards.adopt_all(source)
    return True
