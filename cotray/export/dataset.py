"""A folder that `datasets.load_dataset` reads: JSON lines per split, and a card that names them."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from cotray.errors import DataError
from cotray.records import Split

Line = tuple[str, dict[str, Any]]
"""The file it belongs to, such as `train.jsonl` or `student/train.jsonl`, and the row."""
SPLITS: dict[Split, str] = {"train": "train", "dev": "validation", "test": "test"}
"""cotray's name -> that of the Hugging Face hub."""


def file_of(split: Split) -> str:
    return f"{SPLITS[split]}.jsonl"


def write_lines(folder: Path, lines: Iterable[Line]) -> dict[str, int]:
    """Write each row into its file; returns how many rows every file has, by name."""
    counts: Counter[str] = Counter()
    with ExitStack() as stack:
        files: dict[str, Any] = {}
        for name, row in lines:
            if name not in files:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                files[name] = stack.enter_context((folder / name).open("w", encoding="utf-8"))
            files[name].write(json.dumps(row, ensure_ascii=False) + "\n")
            counts[name] += 1
    return dict(sorted(counts.items()))


def configs_of(files: Iterable[str]) -> list[dict[str, Any]]:
    """`configs` of a data set's card: each folder is a configuration, each file in it a split."""
    found: dict[str, list[dict[str, str]]] = {}
    order = list(SPLITS.values())
    for name in sorted(files, key=lambda name: order.index(Path(name).stem)):
        entry = {"split": Path(name).stem, "path": name}
        found.setdefault(str(Path(name).parent).replace(".", "default"), []).append(entry)
    return [{"config_name": name, "data_files": found[name]} for name in sorted(found)]


def llama_factory(files: Iterable[str], entry: Mapping[str, Any]) -> str:
    """LLaMA-Factory's dataset_info.json: a data set per file, `train` or `student_train`."""
    names = {str(Path(name).with_suffix("")).replace("/", "_"): name for name in files}
    return json.dumps({name: {"file_name": path, **entry} for name, path in names.items()}, indent=2) + "\n"


@contextmanager
def replaced(out: Path) -> Iterator[Path]:
    """A folder to write in, whose files then take their places in `out`.

    DataError where something else lies there, which would be uploaded with them.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        yield Path(scratch)
        made = {str(path.relative_to(scratch)) for path in Path(scratch).rglob("*") if path.is_file()}
        there = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
        if foreign := sorted(there - made):
            raise DataError(
                f"{out}: has {foreign[0]}, which is not of this export; choose a new folder with --out, "
                "or delete it"
            )
        for name in sorted(made):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(Path(scratch, name), out / name)
