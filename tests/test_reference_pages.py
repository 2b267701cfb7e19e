"""The pages of docs/reference/ that are written by hand name all that the code has."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from cotray.commands.verbs import VERBS
from cotray.pools.prometheus_metrics import COUNTERS, GAUGES
from cotray.records import (
    Assessment,
    QAPair,
    Rationale,
    Simulation,
    StudentAnswer,
    TeacherRequest,
    TrainExample,
)
from cotray.scoring.las import LasReport
from cotray.storage.manifest import FileEntry, Manifest, Started
from cotray.storage.run_folder import VERB_OF, DeadLetter

ROOT = Path(__file__).parent.parent
WRITTEN = (
    QAPair, TeacherRequest, Rationale, Assessment, StudentAnswer, Simulation, DeadLetter, TrainExample,
    Manifest, Started, FileEntry, LasReport,
)  # fmt: skip
ENVIRON = re.compile(r'environ\w*(?:\.get|\.setdefault|\.pop)?[\[(]\s*f?"([A-Z]\w*)[{"]')


OF_SHELLS = ("PATH", "COMP_LINE", "COMP_POINT")
"""What a shell says to every program that it starts, or to one that completes its line."""


def words_of(page: str) -> set[str]:
    """What stands between backticks on a page."""
    return set(re.findall(r"`([\w/.]+)`", (ROOT / page).read_text(encoding="utf-8")))


@pytest.mark.parametrize("kind", WRITTEN, ids=lambda kind: kind.__name__)
def test_every_column_and_key_of_the_run_folder_is_named(kind: type) -> None:
    assert {field.name for field in dataclasses.fields(kind)} - words_of(
        "docs/reference/run-folder.md"
    ) == set()


def test_every_stage_of_the_run_folder_is_named() -> None:
    page = (ROOT / "docs/reference/run-folder.md").read_text(encoding="utf-8")
    assert [stage for stage in VERB_OF if f"{stage}/" not in page] == []


def test_every_verb_is_named() -> None:
    page = (ROOT / "docs/reference/commands.md").read_text(encoding="utf-8")
    named = words_of("docs/reference/commands.md") | set(re.findall(r"cotray (\w+)", page))
    assert VERBS.keys() - named == set()


def test_every_benchmark_is_named() -> None:
    source = (ROOT / "cotray/commands/bench.py").read_text(encoding="utf-8")
    choices = re.search(r'choices=\[([^]]*)\],\s+metavar="NAME"', source)
    names = set(re.findall(r'"(\w+)"', choices[1] if choices else ""))
    assert {"teacher", "device"} <= names
    assert names - words_of("docs/reference/commands.md") == set()


def test_every_prometheus_metric_is_named() -> None:
    source = (ROOT / "cotray/deployments/las_monitor.py").read_text(encoding="utf-8")
    live = re.findall(
        r'^        "(\w+)": "', source, re.MULTILINE
    )  # read as text: the module starts Ray's metrics
    assert {"las", "stale"} <= set(live)
    expected = {
        *(f"ray_cotray_{name}_total" for name in COUNTERS),
        *(f"ray_cotray_{name}" for name in GAUGES),
        *(f"ray_cotray_live_{name}" for name in live),
    }
    assert expected - words_of("docs/reference/metrics.md") == set()


def test_every_environment_variable_is_named() -> None:
    found: dict[str, str] = {}
    for folder in ("cotray", "jobs", "cluster"):
        for path in (ROOT / folder).rglob("*.py"):
            found |= dict.fromkeys(ENVIRON.findall(path.read_text("utf-8")), str(path.relative_to(ROOT)))
    named = words_of("docs/reference/environment.md")
    assert {"RAY_ADDRESS", "AWS_CA_BUNDLE", "OPENAI_API_KEY"} <= found.keys()
    missing = [name for name in found if not any(word.startswith(name) for word in named)]
    assert {name: found[name] for name in missing if name not in OF_SHELLS} == {}
