"""The routes and fields as a page at `/docs`, out of the schema that the application itself serves."""

from __future__ import annotations

import re
from functools import cache

from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from cotray.serving.schema_tables import bodies, routes
from cotray.serving.web_page import HEADERS


def add_docs(app: FastAPI) -> None:
    """The page, which needs no key; it loads nothing from elsewhere."""

    @cache
    def html() -> str:
        environment = Environment(
            loader=PackageLoader("cotray.serving", "web"), autoescape=True, undefined=StrictUndefined
        )
        environment.filters["inline"] = inline
        schema = app.openapi()
        return environment.get_template("docs.html.j2").render(
            routes=list(routes(schema)), bodies=list(bodies(schema))
        )

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(html(), headers=HEADERS)


def inline(cell: str) -> Markup:
    """`code` and [links](#to) of a table's cell as HTML; all else as it stands."""
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(cell)))
    return Markup(re.sub(r"\[(\w+)\]\((#\w+)\)", r'<a href="\2">\1</a>', text))
