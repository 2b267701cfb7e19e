"""The key of an export: which item is whose rationale. The researcher keeps it, raters never see it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cotray.criteria.rated_items import Item, Source
from cotray.errors import DataError
from cotray.storage.run_folder import fingerprint


@dataclass(frozen=True)
class Key:
    items: tuple[Item, ...]

    @property
    def digest(self) -> str:
        """Changes with any text, id or source."""
        return fingerprint(_plain(self.items))

    def same_rationales(self, other: Key) -> bool:
        """Whatever the ids: exports of other versions form them otherwise."""
        bare, others = ([replace(item, id="") for item in key.items] for key in (self, other))
        return bare == others

    def write(self, path: Path) -> None:
        """Never over a key that is there: filled files belong to it."""
        tree = {"digest": self.digest, "items": _plain(self.items)}
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(json.dumps(tree, indent=1, ensure_ascii=False) + "\n")
        except FileExistsError:
            raise DataError(f"{path}: there is an export already; choose another --out folder") from None

    @classmethod
    def read(cls, path: Path) -> Key:
        """DataError, in one line, where the file is missing, not a key, or was edited."""
        try:
            tree = json.loads(path.read_text("utf-8"))
            items = [
                Item(**row | {"choices": tuple(row["choices"]), "sources": _sources(row)})
                for row in tree["items"]
            ]
            key, digest = cls(tuple(items)), tree["digest"]
        except FileNotFoundError:
            raise DataError(f"{path}: no such key; give the key.json of the export") from None
        except (OSError, ValueError, KeyError, TypeError):
            raise DataError(
                f"{path}: not a key; give the key.json that `cotray annotate export` wrote"
            ) from None
        if digest != key.digest:
            raise DataError(f"{path}: was edited since the export; give the file as it was written")
        return key


def _sources(row: dict[str, Any]) -> tuple[Source, ...]:
    return tuple(Source(**source) for source in row["sources"])


def _plain(items: Sequence[Item]) -> list[dict[str, Any]]:
    return json.loads(json.dumps([asdict(item) for item in items]))
