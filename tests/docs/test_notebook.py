"""The notebook of the documentation runs from its first cell to its last, and finds what its page says."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import pytest
from nbclient import NotebookClient
from pages import ROOT

NOTEBOOK = ROOT / "docs/tutorial/python.ipynb"
LAST_WORD = """import json, sys
print(json.dumps({
    "imported": sorted({"ray", "vllm"} & set(sys.modules)),
    "rationales": explained["rationale"].tolist(),
    "errors": explained["error"].tolist(),
}))"""


def read() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


def outputs(notebook: Any, kind: str) -> list[Any]:
    """What code cells showed as one kind of data, in order."""
    shown = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]
    return [data[kind] for data in shown if kind in data]


class Measured(NamedTuple):
    share: float
    las: float
    low: float
    high: float


def measured(notebook: Any, rationales: str) -> list[Measured]:
    """The lines of the table of LAS, by the share of questions on which a student reads."""
    text = next(text for text in outputs(notebook, "text/plain") if " las " in text)
    lines = re.findall(rf"^\d+ +{rationales} +(.*)$", text, re.MULTILINE)
    return [Measured(*map(float, line.split())) for line in lines]


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    notebook = read()
    first = nbformat.v4.new_code_cell("import torch\n\ntorch.set_num_threads(1)")
    notebook.cells = [first, *notebook.cells, nbformat.v4.new_code_cell(LAST_WORD)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    folder = {"metadata": {"path": str(tmp_path_factory.mktemp("notebook"))}}
    NotebookClient(notebook, timeout=500, resources=folder).execute(env=environment)
    return notebook


@pytest.mark.long
def test_las_rises_with_the_faithfulness_that_was_set_and_not_with_empty_words(executed: Any) -> None:
    of_reasons = measured(executed, "reasons")
    assert [row.share for row in of_reasons] == [0, 0.25, 0.5, 0.75, 1]
    assert [row.las for row in of_reasons] == sorted(row.las for row in of_reasons)
    # A student that never reads, and one that always does: its answers are those of the rationales, which
    # the question alone tells half of the time.
    first, *_, last = of_reasons
    assert first.low <= 0 <= first.high and last.low <= 0.5 <= last.high
    of_empty_words = measured(executed, "empty words")
    assert len(of_empty_words) == 5 and all(row.low <= 0 <= row.high for row in of_empty_words)


@pytest.mark.long
def test_a_plot_and_a_rationale_for_every_row_are_shown_and_ray_is_not_imported(executed: Any) -> None:
    assert len(outputs(executed, "image/png")) == 1
    said = json.loads(executed.cells[-1].outputs[0].text)
    assert said["errors"] == ["", "", ""] and all(len(text) > 5 for text in said["rationales"])
    assert said["imported"] == []


@pytest.mark.long
def test_what_is_kept_of_an_earlier_run_is_small_and_says_the_same(executed: Any) -> None:
    kept = read()
    assert NOTEBOOK.stat().st_size < 100_000
    code = [cell for cell in kept.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not any(output.output_type in ("error", "stream") for cell in code for output in cell.outputs)
    # Another CPU rounds otherwise, and the simulator was trained on it.
    for rationales in ("reasons", "empty words"):
        pairs = zip(measured(kept, rationales), measured(executed, rationales), strict=True)
        assert all(abs(before.las - now.las) < 0.15 for before, now in pairs)


def test_the_notebook_has_no_relative_links_which_its_page_on_the_site_would_not_have() -> None:
    assert [
        cell.source for cell in read().cells if "](" in cell.source and cell.cell_type == "markdown"
    ] == []


def test_the_notebook_is_named_where_people_look_for_it() -> None:
    for page in ("README.md", "docs/how-to/python.md"):
        assert "tutorial/python.ipynb" in Path(ROOT / page).read_text("utf-8")
