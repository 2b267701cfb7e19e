"""What `--overwrite` is about to delete and to keep, told before anything is deleted."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from cotray.config import RunConfig
from cotray.data.manifest import Damaged, Manifest, changes
from cotray.data.prepare import settings_of as prepare_settings
from cotray.data.store import RunFolder
from cotray.stages.assess import settings_of as assess_settings
from cotray.stages.generate import settings_of as generate_settings
from cotray.stages.score import answer_settings, simulation_settings, simulator_settings
from cotray.stages.train import settings_of as train_settings

SETTINGS = {
    "requests": prepare_settings,
    "rationales": generate_settings,
    "assessments": assess_settings,
    "student": train_settings,
    "answers": answer_settings,
    "simulator": simulator_settings,
    "simulations": simulation_settings,
}
STAGES_OF = {
    "prepare": ("requests",),
    "generate": ("rationales",),
    "assess": ("assessments",),
    "train": ("student",),
    "score": ("answers", "simulator", "simulations"),
    "run": tuple(SETTINGS),
}


def outlook(config: RunConfig, verb: str) -> str:
    """A line for each finished stage that the verb makes: kept, or deleted, why, and what it holds."""
    folder, changed, lines = RunFolder(config.run_dir), set[str](), []
    for stage, settings_of in SETTINGS.items():
        try:
            manifest = folder.manifest(stage)
        except Damaged:
            lines.append(f"  {stage:<12} deleted  (its manifest cannot be read)")
            changed.add(stage)
            continue
        if manifest is None:
            continue
        reasons = changes(manifest, settings_of(config), None)
        reasons += [f"{source}/ changes" for source in _sources(config, stage) if source in changed]
        if reasons:
            changed.add(stage)
        if stage in STAGES_OF[verb]:
            fate = f"deleted  ({'; '.join(reasons)}): " if reasons else "kept     "
            lines.append(f"  {stage:<12} {fate}{_holds(manifest)}")
    return "\n".join([f"--overwrite in {folder.root}:", *(lines or ["  nothing is finished there"])])


def _sources(config: RunConfig, stage: str) -> Collection[str]:
    learns_from_scores = bool(config.assessing.rules) or config.student.conseq is not None
    return {
        "requests": (),
        "rationales": ("requests",),
        "assessments": ("rationales",),
        "student": ("rationales", "assessments") if learns_from_scores else ("rationales",),
        "answers": ("student", "rationales"),
        "simulator": ("answers",),
        "simulations": ("answers", "simulator"),
    }[stage]


def _holds(manifest: Manifest) -> str:
    """Rows, and what they cost as far as it is known."""
    metrics: dict[str, Any] = manifest.metrics
    costs = [f"{manifest.num_out:,} rows"]
    costs += [f"{metrics['tokens']:,} tokens"] if metrics.get("tokens") else []
    costs += [f"{metrics['num_steps']:,} training steps"] if metrics.get("num_steps") else []
    return ", ".join(costs)
