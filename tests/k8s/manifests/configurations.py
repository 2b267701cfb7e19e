"""The commands in the manifests, and the cotray configurations that they read in their pods."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import yaml
from ray.serve.schema import HTTPOptionsSchema, ServeApplicationSchema, ServeDeploySchema

from cotray.config import RunConfig, load_config
from cotray.errors import ConfigError

from .finding import Finding
from .rayclusters import RayCluster, ray_clusters
from .rendering import ROOT, Manifest, name_of, of_kind


class Unresolved(Exception):
    """One line that says what does not resolve."""


@dataclass(frozen=True)
class Run:
    """A command or an application with its configuration."""

    cluster: RayCluster
    verb: str
    """`serve`, or a module below jobs/."""
    config: RunConfig


def runs(manifests: Sequence[Manifest]) -> list[Run]:
    """Those that resolve."""
    return [each for each in _runs(manifests) if isinstance(each, Run)]


def check_configurations(manifests: Sequence[Manifest]) -> list[Finding]:
    return [each for each in _runs(manifests) if isinstance(each, Finding)]


def _runs(manifests: Sequence[Manifest]) -> Iterator[Run | Finding]:
    for cluster in ray_clusters(manifests):
        spec = cluster.owner["spec"]
        try:
            if cluster.kind in ("RayJob", "RayCronJob"):
                job = spec if cluster.kind == "RayJob" else spec["jobTemplate"]
                yield _job(cluster, job["entrypoint"], manifests)
            elif cluster.kind == "RayService":
                yield from _applications(cluster, spec.get("serveConfigV2", ""), manifests)
        except Unresolved as error:
            yield Finding("policy/configurations", name_of(cluster.owner), str(error))


def _job(cluster: RayCluster, entrypoint: str, manifests: Sequence[Manifest]) -> Run:
    """`python -m jobs.VERB -c CONFIG [--overwrite] [KEY=VALUE ...]`, in /opt/cotray, by a shell."""
    program, *arguments = shlex.split(entrypoint)
    if (program, arguments[:1]) != ("python", ["-m"]) or len(arguments) < 2:
        raise Unresolved(f"'{entrypoint}' is not python -m MODULE")
    module = arguments[1]
    if not module.startswith("jobs.") or importlib.util.find_spec(module) is None:
        raise Unresolved(f"no module {module}")
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("-c", "--config", required=True)
    parser.add_argument("--overwrite", action="store_true")
    parser.add_argument("overrides", nargs="*")
    try:
        known, unknown = parser.parse_known_intermixed_args(arguments[2:])
    except (argparse.ArgumentError, SystemExit) as error:
        raise Unresolved(f"'{entrypoint}' does not parse ({error})") from None
    if unknown:
        raise Unresolved(f"'{entrypoint}' has unknown options {unknown}")
    run = Run(cluster, module.removeprefix("jobs."), _load(cluster, manifests, known.config, known.overrides))
    if run.verb == "assess" and not run.config.assessing.measures:
        raise Unresolved(f"'{entrypoint}': assessing.measures is empty")
    return run


def _applications(cluster: RayCluster, text: str, manifests: Sequence[Manifest]) -> Iterator[Run]:
    try:
        tree = yaml.safe_load(text)
        ServeDeploySchema.model_validate(tree)
    except (yaml.YAMLError, ValueError) as error:
        raise Unresolved(f"serveConfigV2: {' '.join(str(error).split())[:300]}") from None
    # Serve ignores what it does not know.
    _no_unknown_keys(tree, ServeDeploySchema, "serveConfigV2")
    http = tree.get("http_options") or {}
    _no_unknown_keys(http, HTTPOptionsSchema, "serveConfigV2.http_options")
    if (http.get("host"), http.get("port")) != ("0.0.0.0", 8000):
        raise Unresolved("serveConfigV2.http_options: the proxies must listen on 0.0.0.0:8000 to be reached")
    for application in tree["applications"]:
        _no_unknown_keys(application, ServeApplicationSchema, "serveConfigV2.applications")
        module, _, name = application["import_path"].partition(":")
        if not callable(_attribute(module, name)):
            raise Unresolved(f"serveConfigV2: import_path {application['import_path']} does not resolve")
        arguments = dict(application.get("args") or {})
        path = arguments.pop("config", None)
        if path is None:
            raise Unresolved("serveConfigV2: args name no config")
        overrides = [f"{key}={value}" for key, value in arguments.items()]
        yield Run(cluster, "serve", _load(cluster, manifests, path, overrides))


def _load(
    cluster: RayCluster, manifests: Sequence[Manifest], path: str, overrides: Sequence[str]
) -> RunConfig:
    """The configuration as the head's and every worker's containers find it. It must be the same in all."""
    first, *others = (
        _parse(
            _file(group, path, manifests),
            tuple(sorted(_environment(group, manifests).items())),
            tuple(overrides),
        )
        for _, group in cluster.named_groups
    )
    if any(other != first for other in others):
        raise Unresolved(f"{path} is not the same in all groups")
    return first


@cache
def _parse(text: str, environment: tuple[tuple[str, str], ...], overrides: tuple[str, ...]) -> RunConfig:
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, dict(environment), clear=True):
        file = Path(folder) / "cotray.yaml"
        file.write_text(text)
        try:
            return load_config(file, overrides)
        except ConfigError as error:
            raise Unresolved(str(error).replace(f"{folder}/", "")) from None


def _file(group: dict[str, Any], path: str, manifests: Sequence[Manifest]) -> str:
    """From the mounted ConfigMap, or from the image, where the repository is the working directory."""
    spec = group["template"]["spec"]
    volumes = {volume["name"]: volume for volume in spec.get("volumes") or []}
    for mount in spec["containers"][0].get("volumeMounts") or []:
        source = volumes.get(mount["name"], {}).get("configMap")
        folder = mount["mountPath"].rstrip("/") + "/"
        if source and path.startswith(folder):
            data = _data(source["name"], manifests)
            if path.removeprefix(folder) in data:
                return data[path.removeprefix(folder)]
            raise Unresolved(f"{path}: ConfigMap {source['name']} has no such key")
    if not path.startswith("/") and (ROOT / path).is_file():
        return (ROOT / path).read_text()
    raise Unresolved(
        f"{path} is neither mounted in group {group.get('groupName', 'head')} nor in the repository"
    )


def _environment(group: dict[str, Any], manifests: Sequence[Manifest]) -> dict[str, str]:
    """What ConfigMaps and the container give; Secrets' values are not known here."""
    container = group["template"]["spec"]["containers"][0]
    environment: dict[str, str] = {}
    for source in container.get("envFrom") or []:
        if "configMapRef" in source:
            environment |= _data(source["configMapRef"]["name"], manifests)
    return environment | {
        entry["name"]: entry["value"] for entry in container.get("env") or [] if "value" in entry
    }


def _data(name: str, manifests: Sequence[Manifest]) -> dict[str, str]:
    return next(
        (m.get("data") or {} for m in of_kind(manifests, "ConfigMap") if m["metadata"]["name"] == name), {}
    )


def _attribute(module: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None


def _no_unknown_keys(tree: dict[str, Any], schema: Any, where: str) -> None:
    unknown = tree.keys() - schema.model_fields.keys()
    if unknown:
        raise Unresolved(f"{where}: unknown key {sorted(unknown)[0]}")
