"""Nothing in the documentation rots silently: blocks are parsed as what they are, links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from documented_data import READERS, furnished
from pages import PAGES, ROOT, blocks, links, prose

README = ROOT / "README.md"
COMMAND = re.compile(r" {4,}(\$ |python |make |curl |kubectl |helm |ray |export |pip |docker )")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_of_a_page_is_what_its_commands_parsers_and_configurations_accept(
    page: Path, tmp_path: Path
) -> None:
    reader = furnished(tmp_path)
    for block in blocks(page):
        assert block.language in READERS, f"neither parsed nor executed: {block}"
        try:
            READERS[block.language](reader, block)
        except Exception as error:
            pytest.fail(f"{error}\n{block}")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_stand_in_fenced_blocks_where_they_are_checked(page: Path) -> None:
    assert [line for _, line in prose(page) if COMMAND.match(line)] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    relative = [link for link in links(page) if not re.match(r"[a-z]+:|#", link)]
    missing = [link for link in relative if not (page.parent / link.partition("#")[0]).exists()]
    assert missing == []


def test_readme_is_read_in_one_sitting() -> None:
    assert len(README.read_text("utf-8").splitlines()) <= 150


def test_every_page_is_in_the_navigation_once() -> None:
    listed = re.findall(r": ([\w/-]+\.(?:md|ipynb))$", (ROOT / "mkdocs.yml").read_text(), re.M)
    assert sorted(listed) == sorted(
        str(page.relative_to(ROOT / "docs"))
        for suffix in ("md", "ipynb")
        for page in (ROOT / "docs").rglob(f"*.{suffix}")
    )


def test_a_dead_link_a_missing_anchor_and_a_page_outside_the_navigation_fail_the_build() -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert settings["strict"] is True
    levels = settings["validation"]
    assert levels["links"] == dict.fromkeys(
        ("not_found", "anchors", "absolute_links", "unrecognized_links"), "warn"
    )
    assert levels["nav"]["omitted_files"] == "warn" and levels["nav"]["not_found"] == "warn"
