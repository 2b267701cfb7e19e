"""KubeRay's objects against its CRDs, as an API server in strict mode takes them: defaults are filled in, an
unknown field is an error, and the schema's CEL rules are evaluated."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import cel
import jsonschema
import yaml

from .finding import Finding
from .rendering import ROOT, Manifest, name_of

CRD_DIR = Path(os.environ.get("COTRAY_CRD_DIR", ROOT.parent / "shared" / "crds"))
GROUP = "ray.io"

_SAME_MEANING = {
    *("type", "enum", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems"),
    *("required", "uniqueItems", "minProperties", "maxProperties"),
}
Schema = dict[str, Any]


def check_crds(manifest: Manifest) -> list[Finding]:
    """Nothing for kinds that are not KubeRay's."""
    if not manifest["apiVersion"].startswith(f"{GROUP}/"):
        return []
    return list(_check(json.dumps(manifest, sort_keys=True)))


@cache
def _check(text: str) -> tuple[Finding, ...]:
    """Of an object as JSON, which overlays share."""
    manifest = json.loads(text)
    schema = schemas().get((manifest["apiVersion"], manifest["kind"]))
    if schema is None:
        return (Finding("crd", name_of(manifest), f"no CRD for {manifest['apiVersion']} {manifest['kind']}"),)
    fill_defaults(schema, manifest)
    errors = _validator(manifest["apiVersion"], manifest["kind"]).iter_errors(manifest)
    found = [
        Finding("crd", name_of(manifest), f"{'.'.join(map(str, error.absolute_path))}: {error.message[:200]}")
        for error in errors
    ]
    found += [Finding("crd-cel", name_of(manifest), message) for message in broken_rules(schema, manifest)]
    return tuple(found)


@cache
def schemas() -> dict[tuple[str, str], Schema]:
    """(apiVersion, kind) -> openAPIV3Schema."""
    found = {}
    for path in sorted(CRD_DIR.glob(f"{GROUP}_*.yaml")):
        crd = yaml.load(path.read_text(), yaml.CSafeLoader)["spec"]
        for version in crd["versions"]:
            key = f"{crd['group']}/{version['name']}", crd["names"]["kind"]
            found[key] = version["schema"]["openAPIV3Schema"]
    return found


@cache
def _validator(api_version: str, kind: str) -> jsonschema.Draft202012Validator:
    schema = closed(schemas()[api_version, kind])
    schema["properties"]["metadata"] = {"type": "object"}  # Kubernetes' own, which the CRD leaves open
    return jsonschema.Draft202012Validator(schema)


def closed(schema: Schema) -> Schema:
    """A structural schema of OpenAPI v3 as JSON Schema, with unknown fields refused."""
    out: Schema = {key: value for key, value in schema.items() if key in _SAME_MEANING}
    if "properties" in schema:
        out["properties"] = {name: closed(each) for name, each in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            out["additionalProperties"] = False
    if "items" in schema:
        out["items"] = closed(schema["items"])
    if isinstance(schema.get("additionalProperties"), dict):
        out["additionalProperties"] = closed(schema["additionalProperties"])
    for key in ("allOf", "anyOf", "oneOf"):
        if key in schema:
            out[key] = [closed(each) for each in schema[key]]
    if "not" in schema:
        out["not"] = closed(schema["not"])
    if schema.get("x-kubernetes-int-or-string"):
        out["type"] = ["integer", "string"]
        out.pop("anyOf", None)
    if schema.get("nullable") and "type" in out:
        types = out["type"] if isinstance(out["type"], list) else [out["type"]]
        out["type"] = [*types, "null"]
    return out


def fill_defaults(schema: Schema, node: Any) -> None:
    """What the API server does before it validates, in place."""
    if isinstance(node, dict):
        for name, each in (schema.get("properties") or {}).items():
            if "default" in each and node.get(name) is None:
                node[name] = copy.deepcopy(each["default"])
            if name in node:
                fill_defaults(each, node[name])
        if isinstance(schema.get("additionalProperties"), dict):
            for value in node.values():
                fill_defaults(schema["additionalProperties"], value)
    elif isinstance(node, list) and isinstance(schema.get("items"), dict):
        for value in node:
            fill_defaults(schema["items"], value)


def broken_rules(schema: Schema, node: Any, path: str = "") -> Iterator[str]:
    """The messages of CEL rules that do not hold; rules about changes (oldSelf) hold for a new object."""
    if node is None:
        return
    for rule in schema.get("x-kubernetes-validations") or []:
        if "oldSelf" not in rule["rule"] and _program(rule["rule"]).execute({"self": node}) is not True:
            yield f"{path or 'object'}: {rule.get('message') or rule['rule']}"
    if isinstance(node, dict):
        for name, each in (schema.get("properties") or {}).items():
            if name in node:
                yield from broken_rules(each, node[name], f"{path}.{name}".lstrip("."))
        if isinstance(schema.get("additionalProperties"), dict):
            for key, value in node.items():
                yield from broken_rules(schema["additionalProperties"], value, f"{path}.{key}")
    elif isinstance(node, list) and isinstance(schema.get("items"), dict):
        for position, value in enumerate(node):
            yield from broken_rules(schema["items"], value, f"{path}[{position}]")


@cache
def _program(rule: str) -> cel.Program:
    return cel.compile(rule)
