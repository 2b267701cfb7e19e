"""The annotators' form: one HTML file that works offline and asks nothing of any server."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cotray.criteria.annotation_sheet import COLUMNS, cells
from cotray.criteria.rated_items import Item
from cotray.prompts.criteria import CRITERIA


def write_form(path: Path, items: Sequence[Item], *, form: str) -> None:
    """`form` names the browser's storage of the answers, so that forms do not mix theirs."""
    environment = Environment(
        loader=PackageLoader("cotray.criteria", "."), autoescape=True, undefined=StrictUndefined
    )
    script, style = (Path(__file__).with_name(name).read_text("utf-8") for name in ("form.js", "form.css"))
    data = {
        "form": form,
        "file": f"{path.stem}.csv",
        "columns": COLUMNS,
        "items": [
            cells(item) | {"shown": [item.question, list(item.choices), item.answer, item.rationale]}
            for item in items
        ],
    }
    page = environment.get_template("form.html.j2").render(
        # Markup: files of the package; texts that come from models are in `data`, which `tojson` escapes.
        script=Markup(script),
        style=Markup(style),
        script_hash=_csp_hash(script),
        style_hash=_csp_hash(style),
        criteria=CRITERIA,
        data=data,
    )
    path.write_text(page, encoding="utf-8")


def _csp_hash(text: str) -> str:
    """As a Content-Security-Policy names the one inline script, or style, that may run."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
