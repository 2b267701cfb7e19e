"""Under which licence a model is, as far as its files or cotray itself say."""

from __future__ import annotations

from pathlib import Path

import yaml

OF_COTRAY = ("random:", "world:")
"""Models that cotray makes."""
OF_EMBEDDED = {"embedded:smollm2-135m-instruct": "apache-2.0"}


def licence_of(model: str) -> str | None:
    """The identifier that the Hugging Face hub uses; None where only the model's own page can tell."""
    if model.startswith(OF_COTRAY):
        return "apache-2.0"
    if model in OF_EMBEDDED:
        return OF_EMBEDDED[model]
    card = Path(model).expanduser() / "README.md"
    if "://" in model or not card.is_file():
        return None
    licence = front_matter(card.read_text(encoding="utf-8")).get("license")
    return licence if isinstance(licence, str) else None


def front_matter(card: str) -> dict:
    """What stands between the lines of dashes at the beginning of a card; {} where there is nothing."""
    first, _, rest = card.partition("\n")
    block, end, _ = rest.partition("\n---")
    if first.strip() != "---" or not end:
        return {}
    try:
        found = yaml.safe_load(block)
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}
