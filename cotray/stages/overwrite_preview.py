"""What `--overwrite` is about to delete and to keep, told before anything is deleted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cotray.config import RunConfig
from cotray.data.prepare import settings_of as prepare_settings
from cotray.data.readers import input_fingerprint
from cotray.errors import CotrayError
from cotray.stages.assess import settings_of as assess_settings
from cotray.stages.generate import settings_of as generate_settings
from cotray.stages.other_rationales import settings_of as other_settings
from cotray.stages.probe import asks_teacher
from cotray.stages.probe import settings_of as probe_settings
from cotray.stages.score import answer_settings, simulation_settings
from cotray.stages.simulator import simulator_settings
from cotray.stages.train import settings_of as train_settings
from cotray.storage.manifest import DamagedFile, Manifest, changes, fingerprint
from cotray.storage.run_folder import VERB_OF, RunFolder

SETTINGS = {
    "requests": prepare_settings,
    "rationales": generate_settings,
    "assessments": assess_settings,
    "student": train_settings,
    "answers": answer_settings,
    "simulator": simulator_settings,
    "simulations": simulation_settings,
    "other_rationales": other_settings,
    "other_answers": probe_settings,
    "probes": probe_settings,
}


def stage_changes(config: RunConfig, stage: str) -> tuple[Manifest | None, list[str]]:
    """A stage's manifest, if it is finished, and which of its settings the configuration has otherwise."""
    manifest = RunFolder(config.run_dir).manifest(stage)
    return manifest, [] if manifest is None else changes(manifest, SETTINGS[stage](config), None)


def overwrite_preview(config: RunConfig, verb: str) -> str:
    """A line for each finished stage that the verb makes: kept, or deleted, why, and what it holds."""
    folder, changed, lines = RunFolder(config.run_dir), set[str](), []
    for stage, settings_of in SETTINGS.items():
        if verb not in ("run", VERB_OF[stage]):
            continue
        try:
            manifest = folder.manifest(stage)
            if manifest is None:
                continue
            reasons = [f"{source}/ changes" for source in _sources(config, stage) if source in changed]
            input = None if reasons else _input(config, folder, stage)
            reasons = changes(manifest, settings_of(config), input) + reasons
        except DamagedFile:
            lines.append(f"  {stage:<12} deleted  (its manifest cannot be read)")
            changed.add(stage)
            continue
        if reasons:
            changed.add(stage)
        fate = f"deleted  ({'; '.join(reasons)}): " if reasons else "kept     "
        lines.append(f"  {stage:<12} {fate}{_holds(manifest)}")
    return "\n".join([f"--overwrite in {folder.root}:", *(lines or ["  nothing is finished there"])])


def refused(config: RunConfig, verb: str) -> list[str]:
    """The stages that the verb would not go on from without `--overwrite`, each with the reason."""
    folder, said = RunFolder(config.run_dir), []
    for stage, settings_of in SETTINGS.items():
        if verb not in ("run", "sweep", VERB_OF[stage]):
            continue
        try:
            manifest, started = folder.manifest(stage), folder.started(stage)
            if manifest is None and (started is None or started.is_deleting or not folder.has_made(stage)):
                continue
            there = manifest or started
            assert there is not None
            reasons = changes(there, settings_of(config), _input(config, folder, stage))
        except CotrayError as error:
            said.append(str(error))
            continue
        if reasons:
            said.append(
                f"{folder.uri(stage)} was made under another configuration ({'; '.join(reasons)}); it needs "
                "--overwrite, or a new run_dir"
            )
    return said


def _sources(config: RunConfig, stage: str) -> Sequence[str]:
    """The stages that a stage is made from; ConSeq's student has both."""
    rationales = ["rationales"] if config.student.conseq or not config.assessing.rules else []
    assessments = ["assessments"] if config.student.conseq or config.assessing.rules else []
    return {
        "requests": (),
        "rationales": ("requests",),
        "assessments": ("rationales",),
        "student": (*rationales, *assessments),
        "answers": ("student", "rationales"),
        "simulator": ("answers",),
        "simulations": ("answers", "simulator"),
        "other_rationales": ("other_requests",),
        "other_answers": ("student", "other_rationales"),
        "probes": ("student", "rationales", *(["other_rationales"] if asks_teacher(config) else [])),
    }[stage]


def _input(config: RunConfig, folder: RunFolder, stage: str) -> str | None:
    """What a stage would be made from now; None where that is not known before it begins."""
    if stage == "requests":
        return input_fingerprint(config.data)
    if stage == "student" and config.student.conseq:
        return None
    manifests = [folder.manifest(source) for source in _sources(config, stage)]
    found = [manifest.fingerprint for manifest in manifests if manifest is not None]
    if len(found) < len(manifests):
        return None
    return found[0] if len(found) == 1 else fingerprint(*found)


def _holds(manifest: Manifest) -> str:
    """Rows, and what they cost as far as it is known."""
    metrics: dict[str, Any] = manifest.metrics
    costs = [f"{manifest.num_out:,} rows"]
    costs += [f"{metrics['tokens']:,} tokens"] if metrics.get("tokens") else []
    costs += [f"{metrics['num_steps']:,} training steps"] if metrics.get("num_steps") else []
    return ", ".join(costs)
