"""Planted mistakes: each check of the manifests reports the mistake that it is for, and names where it is."""

from __future__ import annotations

import copy
import re
from functools import cache
from pathlib import Path

import pytest
from manifests import (
    cluster_policy,
    mistakes_in_api,
    mistakes_in_contents,
    mistakes_in_monitoring,
    mistakes_in_policy,
    operator_clusters,
    operator_objects,
    pod_policy,
)
from manifests.checks import check
from manifests.crds import CRD_DIR
from manifests.mistake import Mistake, Objects
from manifests.rendering import K8S, name_of, render

MISTAKES = (
    *(
        mistakes_in_api.SCHEMAS
        + mistakes_in_api.CLUSTERS
        + mistakes_in_api.OBJECTS
        + mistakes_in_api.TRANSLATION
    ),
    *(mistakes_in_policy.PODS + mistakes_in_policy.CLUSTERS + mistakes_in_contents.REFERENCES),
    *(mistakes_in_contents.CONFIGURATIONS + mistakes_in_contents.CAPACITY),
    *mistakes_in_monitoring.MONITORING,
)


@cache
def spot() -> Objects:
    return {name_of(manifest): manifest for manifest in render(K8S / "overlays" / "spot")}


def test_without_a_mistake_nothing_is_reported() -> None:
    assert check(list(spot().values())) == []


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_planted_mistake_is_reported_by_its_check_and_named(mistake: Mistake) -> None:
    if mistake.check.startswith("crd") and not CRD_DIR.is_dir():
        pytest.skip(f"no KubeRay CRDs in {CRD_DIR} (COTRAY_CRD_DIR)")
    objects = copy.deepcopy(spot())
    mistake.plant(objects)
    findings = check(list(objects.values()))
    hits = [f for f in findings if f.check == mistake.check and f.subject.startswith(mistake.subject)]
    assert any(mistake.words in str(hit) for hit in hits), (
        "\n".join(map(str, findings)) or "nothing is reported"
    )


def test_every_check_has_a_planted_mistake() -> None:
    groups = ((operator_clusters, "operator"), (operator_objects, "operator"), (pod_policy, "policy"))
    names = {
        f"{kind}/{rule.__name__}"
        for module, kind in (*groups, (cluster_policy, "policy"))
        for rule in module.RULES
    }
    for path in Path(operator_clusters.__file__).parent.glob("*.py"):
        names |= set(re.findall(r'Finding\(\s*"([a-z/_-]+)"', path.read_text()))
    assert len(names) > 45
    assert {mistake.check for mistake in MISTAKES} == names
