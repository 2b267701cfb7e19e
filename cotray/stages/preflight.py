"""What would stop a verb hours from now, told in seconds and all at once, before its first stage.

Looked at is what the stages need that are not done: models, packages, data, the run folder, and what the
cluster's nodes have. Nothing is started, and what is written to see whether it can be is deleted.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow.fs as pafs

from cotray.config import DataConfig, RunConfig, TrainingConfig
from cotray.config.references import hidden
from cotray.data.demonstrations import own_demonstrations
from cotray.data.readers import read_rows
from cotray.errors import ConfigError, CotrayError, DataError
from cotray.models.availability import problem_of
from cotray.pools.ray_cluster import can_grow, is_local
from cotray.pools.resources import (
    Need,
    cluster_nodes,
    local_nodes,
    unmet,
    way_out,
)
from cotray.stages.overwrite_preview import stage_changes
from cotray.stages.stage_needs import (
    STAGE_OF,
    Model,
    models_of_stage,
    needs_of_stage,
    packages_of_stage,
    stages_of,
)
from cotray.storage.filesystems import delete_file, filesystem, reason_of, storage_errors, write_file
from cotray.storage.manifest import DamagedFile
from cotray.tracking.tracking import check_tracking

CONNECT_S = 3.0
LEAST_FREE_MIB = 64


def check(configs: Sequence[RunConfig], verb: str) -> None:
    """Raises ConfigError with everything that is wrong with any of them, a line each."""
    found = problems(configs, verb)
    if len(found) == 1:
        raise ConfigError(found[0])
    if found:
        lines = "".join(f"\n  {number}. {text}" for number, text in enumerate(found, 1))
        raise ConfigError(f"{len(found)} problems, and nothing was started:{lines}")


def problems(configs: Sequence[RunConfig], verb: str) -> list[str]:
    """Each with the key, the cause and the way out; none twice."""
    checks = [one for config in configs for one in _checks(config, verb)]
    unique = {(one.func, one.args): one for one in checks}
    if any(one.func is _unloadable for one in checks):
        # Threads that import it for the first time find it half there.
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer  # noqa: F401
    with ThreadPoolExecutor(8) as threads:  # what a slow network is asked, it is asked at once
        found = [text for text in threads.map(lambda one: one(), unique.values()) if text]
    if is_local(configs[0].ray):
        needs = [need for config in configs for need in _needs(config, verb)]
        nodes = local_nodes(configs[0].ray) if needs else []
        lacking = ((need, unmet(need, nodes)) for need in needs)
        found += [f"{problem}; {way_out(need, nodes)}" for need, problem in lacking if problem]
    return list(dict.fromkeys(hidden(text) for text in found))


def tell_what_lacks(configs: Sequence[RunConfig], verb: str) -> None:
    """On standard error, what is going to be waited for."""
    if can_grow():
        for text in dict.fromkeys(note for config in configs for note in notes(config, verb)):
            print(f"cotray: {text}", file=sys.stderr, flush=True)


def notes(config: RunConfig, verb: str) -> list[str]:
    """What no node of the running cluster has now; others may be added, and are waited for."""
    nodes = cluster_nodes()
    found = (unmet(need, nodes) for need in _needs(config, verb))
    return [f"{problem} now; waits until a node is added" for problem in found if problem]


def _to_do(config: RunConfig, verb: str) -> list[str]:
    """Those whose stage is not there, or is there with other settings."""
    return [one for one in stages_of(config, verb) if one == "serve" or not _is_there(config, STAGE_OF[one])]


def _needs(config: RunConfig, verb: str) -> list[Need]:
    """What the stages to do ask of the nodes."""
    return [need for stage in _to_do(config, verb) for need in needs_of_stage(config, stage)]


def _checks(config: RunConfig, verb: str) -> Iterator[partial[str | None]]:
    to_do = _to_do(config, verb)
    if not to_do:
        return
    yield partial(_unwritable, config.run_dir)
    for stage in to_do:
        yield from (partial(_unloadable, model) for model in models_of_stage(config, stage))
        if is_local(config.ray):  # elsewhere nodes may have what this process has not
            yield from (partial(_missing, *package) for package in packages_of_stage(config, stage))
    if "prepare" in to_do:
        yield partial(_unreadable, config.data.model_dump_json())
    if config.teacher.demonstrations and {"generate", "train"} & set(to_do):
        yield partial(_unusable_demonstrations, config.model_dump_json(include={"data", "teacher"}))
    if "generate" in to_do and config.teacher.endpoint and config.decoding_method != "human":
        yield partial(_unreached, str(config.teacher.endpoint.base_url))
    if (keys := [need.key for need in _needs(config, verb) if need.has_gpus]) and is_local(config.ray):
        yield partial(_no_cuda, ", ".join(keys))
    for training in _trainings(config, to_do):
        yield partial(_untracked, training.model_dump_json())
    if verb == "serve":
        yield from (partial(_said, text) for text in _unservable(config))


def _trainings(config: RunConfig, to_do: Sequence[str]) -> list[TrainingConfig]:
    student = [config.student.training] if "train" in to_do else []
    is_trained = "score" in to_do and config.simulator.mode == "trained"
    return [*student, *([config.simulator.training] if is_trained else [])]


def _untracked(training_json: str) -> str | None:
    try:
        check_tracking(TrainingConfig.model_validate_json(training_json))
    except ConfigError as error:
        return str(error)
    return None


def _is_there(config: RunConfig, stage: str) -> bool:
    """Finished with the settings at hand. One with others would be made anew by `--overwrite`, which deletes
    it first."""
    try:
        manifest, changed = stage_changes(config, stage)
        return manifest is not None and not changed
    except (DamagedFile, CotrayError):  # told by the stage, or below
        return False


def _missing(module: str, key: str, how: str) -> str | None:
    if find_spec(module) is None:
        return f"{key}: the package {module} is not installed here; {how}"
    return None


def _said(problem: str) -> str | None:
    return problem


def _unservable(config: RunConfig) -> list[str]:
    from cotray.deployments.application import problems_of

    return problems_of(config, is_here=is_local(config.ray))


def _no_cuda(keys: str) -> str | None:
    import torch

    if torch.version.cuda is None and torch.version.hip is None:
        return (
            f"num_gpus of {keys}: the PyTorch that is installed here ({torch.__version__}) is built for CPUs "
            "alone; install the build for your GPU (pytorch.org), or set num_gpus to 0"
        )
    return None


def _unloadable(model: Model) -> str | None:
    problem = problem_of(model.name, revision=model.revision)
    return f"{model.key}.{problem}" if problem else None


def _unreadable(data_json: str) -> str | None:
    config = DataConfig.model_validate_json(data_json)
    try:
        if next(iter(read_rows(config)), None) is None:
            return f"data.path: {config.path} has no rows; give a file with questions"
    except CotrayError as error:
        return f"data.path: {error}"
    return None


def _unusable_demonstrations(config_json: str) -> str | None:
    try:
        own_demonstrations(RunConfig.model_validate_json(config_json))
    except CotrayError as error:
        text = str(error)
        return text if text.startswith("teacher.demonstrations") else f"teacher.demonstrations: {text}"
    return None


def _unreached(url: str) -> str | None:
    address = urlsplit(url)
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname or "", port), timeout=CONNECT_S).close()
    except OSError as error:
        return (
            f"teacher.endpoint.base_url: {url} cannot be reached ({error.strerror or error}); start the "
            "server, or mend the address"
        )
    return None


def _unwritable(run_dir: str) -> str | None:
    way = "choose another run_dir, or mend its permissions"
    try:
        fs, path = filesystem(run_dir.rstrip("/"))
        if isinstance(fs, pafs.LocalFileSystem):
            return _unwritable_here(Path(path), way)
        probe = f"{path}/.preflight-{uuid.uuid4().hex}"
        with storage_errors(run_dir):
            write_file(fs, probe, b"written to see whether it can be")
            delete_file(fs, probe)
    except DataError as error:
        return f"run_dir: {error}"
    return None


def _unwritable_here(folder: Path, way: str) -> str | None:
    """Nothing is created: the file has no name, in the nearest folder that there is."""
    there = next(one for one in (folder, *folder.parents) if one.exists())
    if not there.is_dir():
        return f"run_dir: {there} is a file, so that no folder {folder} can be made; {way}"
    try:
        with tempfile.TemporaryFile(dir=there):
            space = os.statvfs(there)
    except OSError as error:
        return f"run_dir: {there} cannot be written to ({reason_of(error)}); {way}"
    free_mib = space.f_bavail * space.f_frsize >> 20
    if free_mib < LEAST_FREE_MIB:
        return (
            f"run_dir: the disk of {there} is full: {free_mib} MiB free, {LEAST_FREE_MIB} needed at least; "
            "make room, or choose another run_dir"
        )
    return None
