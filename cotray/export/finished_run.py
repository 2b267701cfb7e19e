"""One method's run folder, as far as its stages are finished."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from cotray.config import Method, RunConfig, parse_config
from cotray.config.references import resolved
from cotray.errors import DataError
from cotray.records import Rationale, StudentAnswer
from cotray.storage.manifest import Manifest
from cotray.storage.run_folder import RunFolder


@dataclass(frozen=True)
class FinishedRun:
    """`config` is that of the method, as its stages were made; at least its rationales are there."""

    config: RunConfig
    folder: RunFolder

    @property
    def method(self) -> Method:
        return self.config.method

    @property
    def teacher(self) -> str:
        """Who wrote the rationales, as their manifest has it."""
        settings = self.folder.require("rationales", "generate").settings
        return settings.get("teacher", {}).get("model", "people")

    @property
    def is_over_api(self) -> bool:
        """Whether the rationales come from a model behind an API."""
        settings = self.folder.require("rationales", "generate").settings
        return settings.get("teacher", {}).get("engine") == "openai"

    @property
    def student(self) -> Manifest | None:
        """Of a trained student; none where the method trains nothing, or has not yet."""
        return None if self.method == "few-shot" else self.folder.manifest("student")

    def rationales(self) -> Iterator[Rationale]:
        """Those of use: failed and empty ones are left out."""
        self.folder.require("rationales", "generate")
        rows = self.folder.read_records("rationales", Rationale)
        return (row for row in rows if not row.error and row.rationale.strip())

    def answers(self) -> Iterator[StudentAnswer]:
        """What the student wrote; nothing where it was not asked yet."""
        is_asked = self.folder.manifest("answers") is not None
        return self.folder.read_records("answers", StudentAnswer) if is_asked else iter(())


def finished_run(config: RunConfig) -> FinishedRun:
    """The run in `run_dir` itself, or that of `method` below it. DataError where there is none."""
    root = RunFolder(config.run_dir)
    if root.manifest("rationales"):
        return FinishedRun(_made_with(config, root), root)
    if run := run_of(config, config.method):
        return run
    finished = [method for method in config.methods if run_of(config, method)]
    way_out = f"choose one with method=NAME: {', '.join(finished)}" if finished else "run `cotray run`"
    raise DataError(f"{config.run_dir}: there are no finished rationales of {config.method}; {way_out}")


def run_of(config: RunConfig, method: Method) -> FinishedRun | None:
    """That of another method below `run_dir`; None where it has no rationales."""
    one = config.for_method(method)
    folder = RunFolder(one.run_dir)
    return FinishedRun(_made_with(one, folder), folder) if folder.manifest("rationales") else None


def _made_with(config: RunConfig, folder: RunFolder) -> RunConfig:
    """The configuration that the folder keeps: the one at hand may be another by now."""
    if not folder.exists("config.yaml"):
        return config
    source = folder.uri("config.yaml")
    # What its `${NAME}` stood for when the run was made may be unknown here, and is not needed.
    tree = resolved(yaml.safe_load(folder.read_bytes("config.yaml")), source, is_lenient=True)
    made_with = parse_config(tree, source=source)
    return made_with.model_copy(update={"run_dir": config.run_dir})
