"""`prepare --show N`: the first rows as they came and as they were understood, before anything is run."""

from __future__ import annotations

from itertools import islice

from cotray.config import DataConfig, RunConfig
from cotray.data.columns import UnusableRow
from cotray.data.file_formats import Row
from cotray.data.questions import Understood, understand
from cotray.data.readers import read_rows, row_text


def preview(config: RunConfig, num_rows: int) -> str:
    """One block per row; what could not be used says why."""
    rows = islice(read_rows(config.data), num_rows)
    return "\n\n".join(block(origin, row, config.data, seed=config.seed) for origin, row in rows)


def block(origin: str, row: Row, config: DataConfig, *, seed: int) -> str:
    """One row: its place, what came, and what was understood, or why it was not."""
    try:
        lines = _lines(understand(row, config, seed=seed))
    except UnusableRow as error:
        lines = [f"not usable: {error}"]
    return "\n".join([origin, f"  {row_text(row)}", *(f"    {line}" for line in lines)])


def _lines(found: Understood) -> list[str]:
    pair = found.pair
    lines = {
        "read as": f"{found.layout}, task {pair.task}",
        "id": pair.id + (" (made from question and choices)" if found.has_made_id else ""),
        "question": pair.question,
        "choices": " | ".join(pair.choices) + (" (repeated ones merged)" if found.has_merged_choices else ""),
        "answer": pair.answer,
        "split": pair.split,
        "rationale": pair.reference_rationale,
        "facts": " | ".join(pair.facts),
    }
    return [f"{name:<10}{value}" for name, value in lines.items() if value]
