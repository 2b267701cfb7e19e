"""The web page at `/`: the files in web/, and plotly's JavaScript out of its Python package."""

from __future__ import annotations

from importlib.resources import files

from fastapi import FastAPI
from fastapi.responses import FileResponse, Response

WEB = files("cotray.serving").joinpath("web")
PLOTLY = files("plotly").joinpath("package_data", "plotly.min.js")
MODULES = (
    *("page.js", "form.js", "ask.js", "switch.js", "compare.js", "attempts.js", "bars.js"),
    *("live.js", "chart.js", "api.js", "dom.js"),
)
HEADERS = {
    # plotly sets styles of its own; scripts come from here alone and never from within a document.
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def add_page(app: FastAPI) -> None:
    """The page and its files, which need no key; what the page asks of the API does."""
    _add_text(app, "/", "index.html", "text/html")
    _add_text(app, "/page/page.css", "page.css", "text/css")
    for name in MODULES:
        _add_text(app, f"/page/{name}", name, "text/javascript")

    @app.get("/page/plotly.min.js", include_in_schema=False)
    async def plotly() -> FileResponse:
        caching = {"Cache-Control": "public, max-age=86400"}
        return FileResponse(str(PLOTLY), media_type="text/javascript", headers=HEADERS | caching)


def _add_text(app: FastAPI, path: str, name: str, media_type: str) -> None:
    text = WEB.joinpath(name).read_text("utf-8")

    @app.get(path, include_in_schema=False)
    async def serve() -> Response:
        # These change with the package, so browsers ask again.
        return Response(text, media_type=media_type, headers=HEADERS | {"Cache-Control": "no-cache"})
