"""What the small files of a stage say: `manifest.json` of a finished one, `started.json` of one under way."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple, TypeVar

from cotray.config.references import recorded
from cotray.errors import StageError

FORMAT = 4
"""Of manifest.json and started.json. Format 1 had no list of files, and rows had no version; format 2 did
not know the prompts of student and simulator; until format 3 the files lay beside the stage's own."""
ALL_SETTINGS = 3
"""The first format that records every setting; what an earlier one lacks is not compared."""
RECORDED = ("cotray", "torch", "transformers", "ray", "vllm")


class DamagedFile(StageError):
    """A manifest.json or started.json that cannot be read, so that nobody knows what the rows are."""


@dataclass(frozen=True)
class FileEntry:
    """A file of a finished stage. `rows` is None where it is not Parquet."""

    name: str
    """Below the stage's folder."""
    size: int
    sha256: str
    rows: int | None = None

    @classmethod
    def of(cls, name: str, data: bytes, rows: int | None = None) -> FileEntry:
        return cls(name, len(data), hashlib.sha256(data).hexdigest(), rows)


class Work(NamedTuple):
    """When a stage's first row or step began, and its last one ended, in seconds since the epoch."""

    began: float
    ended: float


@dataclass(frozen=True)
class Manifest:
    """Written last: what a finished stage made, from which input, under which settings."""

    stage: str
    settings: dict[str, Any]
    input: str
    num_in: int
    num_out: int
    num_dead: int
    metrics: dict[str, Any] = field(default_factory=dict)
    files: tuple[FileEntry, ...] | None = None
    """Every file of the stage; None in a folder that an earlier version of cotray made."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of the packages that made it; recorded, and never compared."""
    times: dict[str, float] = field(default_factory=dict)
    """Seconds of the command that finished it: before its work began (start_s), of its work (work_s), and
    after it (end_s). {} where there was none left to do."""
    format: int = FORMAT

    @property
    def fingerprint(self) -> str:
        """Identifies the output: the next stage's `input`, and the version of the stage's rows."""
        return fingerprint(self.settings, self.input)

    @property
    def version(self) -> str | None:
        """That its Parquet files carry; None where an earlier version of cotray wrote them without one."""
        return self.fingerprint if self.format >= 2 else None


@dataclass(frozen=True)
class Started:
    """Written first: what a stage makes or, as a tombstone, that all of it is being deleted."""

    settings: dict[str, Any]
    input: str
    is_deleting: bool = False
    format: int = FORMAT

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.settings, self.input)

    @property
    def version(self) -> str | None:
        """As a manifest's."""
        return self.fingerprint if self.format >= 2 else None


State = TypeVar("State", Manifest, Started)


def dumped(state: Manifest | Started) -> bytes:
    return json.dumps(recorded(asdict(state)), indent=1, sort_keys=True).encode()


def parsed(kind: type[State], data: bytes, *, where: str) -> State:
    """Fields that this version does not know are ignored; DamagedFile names the way out."""
    way_out = "make the stage again with --overwrite, or restore the file"
    try:
        tree = json.loads(data)
        if not isinstance(tree, dict):
            raise ValueError("not a JSON object")
        number = tree.setdefault("format", 1)
        if not isinstance(number, int) or number > FORMAT:
            raise StageError(
                f"{where}: was written by a newer cotray (format {number}, this one reads up to {FORMAT}); "
                "update cotray, or name a new folder (run_dir)"
            )
        if not isinstance(tree["settings"], dict) or not isinstance(tree["input"], str):
            raise ValueError("settings or input of the wrong kind")
        known = {f.name for f in fields(kind)}
        values = {name: value for name, value in tree.items() if name in known}
        if values.get("files") is not None:
            names = {f.name for f in fields(FileEntry)}
            values["files"] = tuple(
                FileEntry(**{k: v for k, v in entry.items() if k in names}) for entry in values["files"]
            )
        return kind(**values)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        reason = "is empty" if not data else f"is damaged ({' '.join(str(error).split())[:100]})"
        raise DamagedFile(f"{where} {reason}; {way_out}") from None


def fingerprint(*parts: Any) -> str:
    """A short stable hash of JSON-like values."""
    text = json.dumps(recorded(parts), sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def changes(old: Manifest | Started, settings: dict[str, Any], input: str | None) -> list[str]:
    """What differs from these settings and this input, "key: old -> new" each; `input` None is not compared.

    What a format before ALL_SETTINGS did not record, or as `auto`, is taken to be the same.
    """
    flat_old, flat_new = _flatten(old.settings), _flatten(plain(settings))
    keys = flat_old.keys() | flat_new.keys()
    if old.format < ALL_SETTINGS:
        keys = {key for key, value in flat_old.items() if value != "auto"}
    found = [
        f"{key}: {flat_old.get(key)} -> {flat_new.get(key)}"
        for key in sorted(keys)
        if flat_old.get(key) != flat_new.get(key)
    ]
    return found + (["its input changed"] if input is not None and old.input != input else [])


def plain(settings: dict[str, Any]) -> dict[str, Any]:
    """As they come back from a file: tuples are lists there, and secrets are references."""
    return json.loads(json.dumps(recorded(settings)))


def installed_versions(names: Sequence[str] = RECORDED) -> dict[str, str]:
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
