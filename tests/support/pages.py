"""Pages of documentation: their fenced blocks and their links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "k8s/README.md", *(ROOT / "docs").rglob("*.md")]
)
_FENCE = re.compile(r"(?P<indent> *)(?P<marks>`{3,}|~{3,})(?P<info>.*)")
_TITLE = re.compile(r'title="([^"]+)"')
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)[^)]*\)")


@dataclass(frozen=True)
class Block:
    """A fenced block; `title` is the file that a reader saves it as, and may be empty."""

    page: Path
    line: int
    language: str
    title: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}: ```{self.language}\n{self.text}```"


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in their order."""
    found: list[Block] = []
    lines = iter(enumerate(page.read_text("utf-8").splitlines(), start=1))
    for number, line in lines:
        if not (fence := _FENCE.fullmatch(line)):
            continue
        indent, end = fence["indent"], re.compile(rf" *{fence['marks']}[`~]* *")
        inside = []
        for _, inner in lines:
            if end.fullmatch(inner):
                break
            inside.append(inner.removeprefix(indent))
        else:
            raise AssertionError(f"{page}:{number}: the block has no end")
        info = fence["info"].strip()
        title = _TITLE.search(info)
        language = re.split(r"[\s{]", info, maxsplit=1)[0]
        text = "".join(f"{inner}\n" for inner in inside)
        found.append(Block(page, number, language, title[1] if title else "", text))
    return found


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """The lines of a page outside its fenced blocks."""
    inside = ""
    for number, line in enumerate(page.read_text("utf-8").splitlines(), start=1):
        fence = _FENCE.fullmatch(line)
        if inside:
            inside = "" if fence and fence["marks"].startswith(inside) and not fence["info"] else inside
        elif fence:
            inside = fence["marks"]
        else:
            yield number, line


def links(page: Path) -> list[str]:
    """Where the links and images of a page go, as they are written."""
    return [target for _, line in prose(page) for target in _LINK.findall(line)]
