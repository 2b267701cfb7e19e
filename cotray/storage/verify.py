"""verify: every file of every finished stage, read from the first byte to the last."""

from __future__ import annotations

from cotray.config import RunConfig
from cotray.errors import DataError, StageError
from cotray.storage.manifest import Manifest
from cotray.storage.run_folder import VERB_OF, RunFolder


def verify(config: RunConfig) -> str:
    """What is there, a line per finished stage. Raises StageError if a file is not as its manifest says."""
    roots = [config.run_dir, *(config.for_method(method).run_dir for method in config.methods)]
    lines, num_bad = [], 0
    for folder in map(RunFolder, roots):
        for stage, verb in VERB_OF.items():
            try:
                manifest = folder.manifest(stage)
                problems = [] if manifest is None else problems_of(folder, manifest)
            except (StageError, DataError) as problem:
                manifest, problems = None, [str(problem)]
            if problems:
                num_bad += 1
                lines.append(f"{folder.uri(stage)}: {'; '.join(problems)}. `cotray {verb}` repairs it")
            elif manifest is not None:
                lines.append(f"{folder.uri(stage)}: {_whole(manifest)}")
    if not lines:
        raise DataError(f"{config.run_dir}: no finished stage; run `cotray run` or a single verb first")
    if num_bad:
        raise StageError("\n".join([f"{num_bad} stages are damaged", *lines]))
    return "\n".join(lines)


def problems_of(folder: RunFolder, manifest: Manifest) -> list[str]:
    """What differs between a stage's files and its manifest, by content, rows and version."""
    problems = folder.damage(manifest.stage, manifest)
    if problems:
        return problems
    for expected in manifest.files or ():
        found = folder.entry(manifest.stage, expected.name)
        if found.sha256 != expected.sha256:
            problems.append(f"{expected.name} has other content than was written")
        elif found.rows != expected.rows:
            problems.append(f"{expected.name} has {found.rows} rows instead of {expected.rows}")
        elif found.rows is not None and (
            folder.version(f"{manifest.stage}/{found.name}") != manifest.fingerprint
        ):
            problems.append(f"{expected.name} has rows of another configuration or input")
    return problems


def _whole(manifest: Manifest) -> str:
    if manifest.files is None:
        return "made by an earlier version of cotray, which did not list its files; nothing to compare with"
    size = sum(entry.size for entry in manifest.files)
    return f"{len(manifest.files)} files, {size:,} bytes, {manifest.num_out:,} rows: all as they were written"
