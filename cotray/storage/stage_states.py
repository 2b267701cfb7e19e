"""Where a stage's manifest.json or started.json lies: in a folder that readers of Parquet pass over.

pandas, pyarrow and `datasets` read the folder of a stage as it is; a JSON file beside the rows would stop
them.
"""

from __future__ import annotations

from typing import TypeVar

from cotray.storage.folder import Folder
from cotray.storage.manifest import Manifest, Started, dumped, parsed

STATE = ".stage"
"""The folder of a stage with the small files that say which state it is in."""
State = TypeVar("State", Manifest, Started)


def places(kind: type[Manifest | Started], stage: str) -> tuple[str, str]:
    """Where a stage's file of this kind is, and where it was until format 3 of manifests."""
    name = "manifest.json" if kind is Manifest else "started.json"
    return f"{stage}/{STATE}/{name}", f"{stage}/{name}"


STATE_FILES = {place.removeprefix("/") for kind in (Manifest, Started) for place in places(kind, "")}
"""Their names below the stage's folder."""


class StageStates(Folder):
    """A folder of stages, each with the files that say which state it is in."""

    def manifest(self, stage: str) -> Manifest | None:
        """Of a finished stage; None also while it is being deleted. Raises DamagedFile."""
        manifest = self._read_state(Manifest, stage)
        started = self.started(stage) if manifest else None
        return None if started and started.is_deleting else manifest

    def started(self, stage: str) -> Started | None:
        """Of a stage under way, or being deleted. Raises DamagedFile."""
        return self._read_state(Started, stage)

    def _read_state(self, kind: type[State], stage: str) -> State | None:
        for name in places(kind, stage):
            if self.exists(name):
                return parsed(kind, self.read_bytes(name), where=self.uri(name))
        return None

    def write_state(self, stage: str, state: Manifest | Started) -> None:
        self.write_bytes(places(type(state), stage)[0], dumped(state))

    def _delete_state(self, kind: type[Manifest | Started], stage: str) -> None:
        for name in reversed(places(kind, stage)):  # what counts goes last
            if self.exists(name):
                self._delete_file(name)
