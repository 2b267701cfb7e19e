"""The page at /docs: everything that the schema says, from this service alone."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from test_app import get

from cotray.serving.docs_page import inline
from cotray.serving.reference import openapi


class Seen(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.texts, self.ids, self.links = list[str](), list[str](), list[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids += [given["id"] or ""] if "id" in given else []
        self.links += [given[name] or "" for name in ("href", "src") if name in given]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_every_route_and_field_of_the_schema_is_on_the_page_which_needs_no_key() -> None:
    response = get("/docs", authorization="")
    seen, schema = Seen(response.text), openapi()
    assert response.status_code == 200
    for path, methods in schema["paths"].items():
        assert {f"{method.upper()} {path}" for method in methods} <= set(seen.texts)
    fields = schema["components"]["schemas"]["ChatRequest"]["properties"]
    assert {"messages", "temperature", "tools"} <= set(fields) <= set(seen.texts)


def test_its_links_lead_to_its_own_tables_and_to_this_service_alone() -> None:
    seen = Seen(get("/docs").text)
    inner = {link.removeprefix("#") for link in seen.links if link.startswith("#")}
    assert inner <= set(seen.ids) and {"chatrequest", "lasline", "problem"} <= inner | set(seen.ids)
    others = {link for link in seen.links if not link.startswith("#")}
    assert others == {"data:,", "page/page.css", "openapi.json", "./"}


def test_code_and_links_of_a_cell_become_html_and_nothing_else_does() -> None:
    assert inline("`a<b` of [Row](#row) & <i>") == (
        '<code>a&lt;b</code> of <a href="#row">Row</a> &amp; &lt;i&gt;'
    )
    assert not re.search("<i>", inline("<i>"))
