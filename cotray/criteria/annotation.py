"""The round-trip with people: forms and sheets out, filled sheets in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cotray.config import RunConfig
from cotray.criteria.annotation_form import write_form
from cotray.criteria.annotation_key import Key
from cotray.criteria.annotation_sheet import read_sheet, write_sheet
from cotray.criteria.rated_items import Item, draw_items
from cotray.criteria.results import text_table, write_people
from cotray.errors import ConfigError, DataError
from cotray.seeds import seeded
from cotray.storage.run_folder import RunFolder


def export(config: RunConfig, folder: Path, *, num_rationales: int, num_annotators: int) -> str:
    """Write key.json and, per annotator, a form and an empty sheet with the items in an order of its own."""
    if num_rationales < 1 or num_annotators < 1:
        raise ConfigError("--rationales and --annotators must be at least 1")
    key = Key(tuple(draw_items(config, num_rationales=num_rationales)))
    folder.mkdir(parents=True, exist_ok=True)
    key.write(folder / "key.json")
    for number in range(1, num_annotators + 1):
        items = shuffled(key, seed=config.seed, annotator=number)
        write_sheet(folder / f"annotator-{number}.csv", items)
        write_form(folder / f"annotator-{number}.html", items, form=f"{key.digest}-{number}")
    return (
        f"{folder}: {len(key.items)} items, {num_annotators} annotators; give each "
        "their .html or their .csv, and nobody key.json"
    )


def shuffled(key: Key, *, seed: int, annotator: int) -> list[Item]:
    """The order in which one annotator sees the items: no group follows another, nobody's is another's."""
    items = list(key.items)
    seeded(seed, str(annotator), "annotator").shuffle(items)
    return items


def import_sheets(config: RunConfig, key_path: Path, paths: Sequence[Path]) -> str:
    """Read one filled sheet per annotator and write criteria.json; the annotator is named as the file."""
    key = Key.read(key_path)
    if len({path.resolve() for path in paths}) < len(paths):
        raise DataError("a file is given twice; give one per annotator")
    names = [path.stem for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    ratings = {name: read_sheet(path, key) for name, path in zip(names, paths, strict=True)}
    table = text_table(write_people(config, key, ratings))
    written = RunFolder(config.run_dir).uri("criteria.json")
    return f"{table}\n\n{written}; `cotray report`, or the sweep run again, shows it"
