"""Kubernetes' own objects against its schemas, in strict form: an unknown field is an error."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import jsonschema
from kubernetes_validate.utils import latest_version, schema_contents
from referencing import Registry, Resource

from .finding import Finding
from .rendering import Manifest, name_of

FOREIGN = ("ray.io/", "monitoring.coreos.com/")
"""API groups of CRDs."""


def check_kubernetes(manifest: Manifest) -> list[Finding]:
    if manifest["apiVersion"].startswith(FOREIGN):
        return []
    return list(_check(json.dumps(manifest, sort_keys=True)))


@cache
def _check(text: str) -> tuple[Finding, ...]:
    manifest = json.loads(text)
    try:
        validator = _validator(manifest["apiVersion"], manifest["kind"])
    except FileNotFoundError:
        kind = f"{manifest['apiVersion']} {manifest['kind']}"
        return (Finding("kubernetes", name_of(manifest), f"Kubernetes has no {kind}"),)
    return tuple(
        Finding(
            "kubernetes",
            name_of(manifest),
            f"{'.'.join(map(str, error.absolute_path))}: {error.message[:200]}",
        )
        for error in validator.iter_errors(manifest)
    )


@cache
def _validator(api_version: str, kind: str) -> jsonschema.Draft202012Validator:
    """kubernetes_validate.validate reads all definitions again for every object; here they are read once."""
    group, _, version = api_version.rpartition("/")
    name = "-".join(part for part in (kind.lower(), group.split(".")[0], version) if part)
    schema = schema_contents(f"{_folder()}/{name}.json", latest_version())
    registry: Registry[Any] = Resource.from_contents(schema) @ _definitions()
    return jsonschema.Draft202012Validator(schema, registry=registry)


@cache
def _definitions() -> Registry[Any]:
    contents = schema_contents(f"{_folder()}/_definitions.json", latest_version())
    return Resource.from_contents(contents) @ Registry()


def _folder() -> str:
    return f"kubernetes-json-schema/v{latest_version()}-local-strict"
