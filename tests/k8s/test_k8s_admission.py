"""The checks see an object as the API server stores it: with a name, and with the defaults of its CRD."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from manifests.admission import admitted
from manifests.checks import check
from manifests.crds import CRD_DIR, Schema, schemas
from manifests.rendering import K8S, Manifest, render

pytestmark = pytest.mark.skipif(not CRD_DIR.is_dir(), reason=f"no KubeRay CRDs in {CRD_DIR}")


@cache
def rendered() -> tuple[Manifest, ...]:
    return tuple(render(K8S / "overlays" / "spot"))


def without_defaults(schema: Schema, node: Any) -> Iterator[str]:
    """Takes away, in place, every field that has its default anyway; yields their names."""
    if isinstance(node, dict):
        for name, each in (schema.get("properties") or {}).items():
            if name in node and "default" in each and node[name] == each["default"]:
                del node[name]
                yield name
            elif name in node:
                yield from without_defaults(each, node[name])
    elif isinstance(node, list) and isinstance(schema.get("items"), dict):
        for value in node:
            yield from without_defaults(schema["items"], value)


def test_what_the_api_server_fills_in_need_not_be_written() -> None:
    manifests = copy.deepcopy(list(rendered()))
    taken = [
        name
        for manifest in manifests
        if (schema := schemas().get((manifest["apiVersion"], manifest["kind"])))
        for name in without_defaults(schema, manifest)
    ]
    assert taken  # such as a port's protocol, which is TCP
    assert check(manifests) == []


def test_objects_with_generate_name_are_checked_like_others() -> None:
    manifests = copy.deepcopy(list(rendered()))
    jobs = [manifest for manifest in manifests if manifest["kind"] == "RayJob"]
    for job in jobs:
        job["metadata"]["generateName"] = f"{job['metadata'].pop('name')}-"
    assert jobs and check(manifests) == []
    jobs[0]["spec"]["no_such_field"] = 1
    (finding,) = [found for found in check(manifests) if found.check == "crd"]
    assert "cotray-" in finding.subject and "no_such_field" in str(finding)


def test_a_generated_name_fits_into_a_label_and_a_given_one_stays() -> None:
    made = admitted({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "a" * 100}})
    assert len(made["metadata"]["name"]) == 63
    both = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "a-", "name": "b"}}
    assert admitted(both)["metadata"]["name"] == "b"


def test_nothing_that_is_written_is_changed() -> None:
    before = copy.deepcopy(list(rendered()))
    check(list(rendered()))
    assert list(rendered()) == before
