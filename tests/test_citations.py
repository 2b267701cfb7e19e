"""What the source cites can be found: a file of this repository, with the section that is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("cluster", "cotray", "docs", "jobs", "k8s", "tests")
SUFFIXES = (".py", ".yaml", ".toml", ".j2", ".js", ".css", ".md")
CITED_PAGE = re.compile(r"[\w./*-]*\w\.md(?:#[\w-]+)?")
NUMBERED_SECTION = re.compile(r"\b[A-Z]{5,}(?:\.md)?,? (?:section )?\d+\.\d+\b|\bTV-?\d+\b|\b_tv\d+\b")
"""A section number behind a name in capitals, as of a paper's summary that lies elsewhere."""


def _sources() -> list[Path]:
    """Text files of the repository's own folders, and those beside them."""
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")] + list(ROOT.glob("*"))
    return sorted(path for path in paths if path.suffix in SUFFIXES and path != Path(__file__))


def cited_by(path: Path) -> set[str]:
    """Pages, but those of links in Markdown that the file generates: they begin from another folder."""
    text = re.sub(r"\]\([^)]*\)", "]", path.read_text("utf-8"))
    return {name for name in CITED_PAGE.findall(text) if "*" not in name}


SOURCES = _sources()
CITING = [path for path in SOURCES if path.suffix != ".md" and cited_by(path)]


def anchor(heading: str) -> str:
    """As GitHub and MkDocs make it of a heading of words and spaces."""
    return re.sub(r"[^\w -]", "", heading.strip().lower()).replace(" ", "-")


def anchors_of(page: Path) -> set[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    return {anchor(heading) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


def problem_of(citation: str, citing: Path) -> str:
    """Why a citation leads nowhere; "" if it does. A page is named from the root or from the citing file."""
    name, _, section = citation.partition("#")
    pages = [place / name for place in (ROOT, citing.parent) if (place / name).is_file()]
    if not pages:
        return f"{citation}: no such file"
    return f"{citation}: no such section" if section and section not in anchors_of(pages[0]) else ""


@pytest.mark.parametrize("path", CITING, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_page_that_source_cites_is_there_with_its_section(path: Path) -> None:
    assert [problem for text in sorted(cited_by(path)) if (problem := problem_of(text, path))] == []


def test_source_cites_no_numbered_section_of_a_document_outside() -> None:
    found = {
        str(path.relative_to(ROOT)): numbers
        for path in SOURCES
        if (numbers := NUMBERED_SECTION.findall(path.read_text("utf-8")))
    }
    assert found == {}


def test_a_citation_of_a_missing_page_or_section_is_found() -> None:
    here, method = Path(__file__), "docs/explanation/method.md"
    assert problem_of(f"{method}#stop-rules", here) == ""
    assert problem_of(f"{method}#stop-rule", here) == f"{method}#stop-rule: no such section"
    assert problem_of("docs/explanation/methods.md", here) == "docs/explanation/methods.md: no such file"
    assert NUMBERED_SECTION.findall("as PAPER 3.2 and TV-7 say, over HTTP 404") == ["PAPER 3.2", "TV-7"]
    assert anchor("QUALS of a rationale") == "quals-of-a-rationale"
