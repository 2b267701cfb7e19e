"""What the API server does to an object before anybody sees it: a name is made, defaults are filled in."""

from __future__ import annotations

import copy

from .crds import CRD_DIR, fill_defaults, schemas
from .finding import Finding
from .rendering import Manifest

SUFFIX = "x" * 5
"""In place of the five signs that are drawn."""
LONGEST = 63 - len(SUFFIX)
"""Of what stands before them."""


def admitted(manifest: Manifest) -> Manifest:
    """The object as it is stored; KubeRay's defaults only where its CRDs are at hand."""
    stored = copy.deepcopy(manifest)
    metadata = stored.setdefault("metadata", {})
    if not metadata.get("name") and metadata.get("generateName"):
        metadata["name"] = f"{metadata['generateName'][:LONGEST]}{SUFFIX}"
    if CRD_DIR.is_dir() and (schema := schemas().get((stored.get("apiVersion", ""), stored.get("kind", "")))):
        fill_defaults(schema, stored)
    return stored


def check_name(manifest: Manifest) -> list[Finding]:
    """Of an admitted object."""
    if manifest["metadata"].get("name"):
        return []
    return [Finding("api", str(manifest.get("kind")), "metadata: name or generateName is required")]
