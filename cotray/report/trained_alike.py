"""Whether the students of a report, and their simulators, were trained alike and can be compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cotray.storage.manifest import ALL_SETTINGS
from cotray.storage.run_folder import RunFolder

OF_METHODS = {"alpha", "seed", "prompts", "counterfactual_weight", "rationales", "tags", "model", "mode"}
"""Settings that methods may differ in, or that the report names anyway."""
UNSAID = "none"
"""A setting that a manifest does not have, because it was not set."""
PARTS = (("student", "train"), ("simulator", "score"))


def trained_otherwise(folders: Sequence[tuple[str, RunFolder]]) -> list[str]:
    """A sentence for students and one for simulators, naming each setting in which methods differ."""
    said = []
    for stage, verb in PARTS:
        manifests = {method: folder.require(stage, verb) for method, folder in folders}
        # What is prompted was not trained; what an earlier version of cotray left out is not known.
        settings = {
            method: dict(_flat(manifest.settings))
            for method, manifest in manifests.items()
            if manifest.settings.get("training") and manifest.format >= ALL_SETTINGS
        }
        names = sorted({name for own in settings.values() for name in own})
        differing = []
        for name in names:
            values = {method: own.get(name, UNSAID) for method, own in settings.items()}
            if len(set(map(repr, values.values()))) > 1:
                of_each = ", ".join(f"{value} ({method})" for method, value in values.items())
                differing.append(f"{name} {of_each}")
        if differing:
            said.append(
                f"The {stage}s were not trained alike, so that their figures must not be compared: "
                f"{'; '.join(differing)}. Run all methods with one configuration (`cotray run --overwrite`)."
            )
    return said


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif name not in OF_METHODS:
            yield f"{prefix}{name}", value
