"""The page of the HTTP interface is what the application serves, and says what everything means."""

from __future__ import annotations

from pathlib import Path

from cotray.serving.reference import openapi, page

ROOT = Path(__file__).parents[2]


def test_the_page_is_what_the_application_serves() -> None:
    stored = (ROOT / "docs/reference/http-api.md").read_text(encoding="utf-8")
    assert stored == page(), "run: python -m cotray.serving.reference > docs/reference/http-api.md"


def test_every_route_and_every_field_of_ours_has_a_text() -> None:
    schema = openapi()
    routes = {path: route for path, methods in schema["paths"].items() for route in methods.values()}
    assert [path for path, route in routes.items() if not route.get("description")] == []
    bodies = schema["components"]["schemas"]
    silent = [
        f"{name}.{field}"
        for name, body in bodies.items()
        for field, about in body.get("properties", {}).items()
        if not about.get("description")
    ]
    framework = ("HTTPValidationError.", "ValidationError.")
    assert [name for name in silent if not name.startswith(framework)] == []


def test_every_link_within_the_page_leads_to_a_table() -> None:
    text = page()
    linked = {part.split(")")[0] for part in text.split("](#")[1:]}
    headings = {line.removeprefix("### ").lower() for line in text.splitlines() if line.startswith("### ")}
    assert linked <= headings
    assert {"answerrequest", "lasline", "problem"} <= linked
