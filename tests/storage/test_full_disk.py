"""A disk that is full at any write ends a verb in one line; with room, the same command goes on from there.

The verbs run in this process (tests/support/disturbed_runs.py). A full disk is the operating system's own
error, once a file is written and is to be made to last, or to get its name: from that moment on until the
verb has ended. Every eleventh such moment is tried.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from disturbed_runs import NEW, OLD, attempt, config_of, copy, put_stand_ins, state_of

from cotray.errors import CotrayError
from cotray.storage.run_folder import RunFolder

EVERY = 11


@contextmanager
def full_at(moment: int) -> Iterator[list[str]]:
    """From the `moment`-th step of a write on there is no room; 0: there always is. Gives the steps."""
    steps: list[str] = []

    def checked(name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        def take(*arguments: Any, **options: Any) -> Any:
            if name == "fsync" and stat.S_ISDIR(os.fstat(arguments[0]).st_mode):
                return step(*arguments, **options)
            steps.append(name)
            if moment and len(steps) >= moment:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return step(*arguments, **options)

        return take

    with pytest.MonkeyPatch.context() as patch:
        for name in ("fsync", "replace"):
            patch.setattr(os, name, checked(name, getattr(os, name)))
        yield steps


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_goes_on_after_a_full_disk_as_if_there_had_always_been_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    put_stand_ins(monkeypatch, tmp_path / "scratch")
    finished, straight = str(tmp_path / "finished"), str(tmp_path / "straight")
    if overwrite:
        attempt(config_of(finished, *OLD), overwrite=False)
        copy(finished, straight)
    with full_at(0) as steps:
        attempt(config_of(straight, *NEW), overwrite=overwrite)
    expected = state_of(straight)
    assert len(steps) > 100
    for moment in range(1, len(steps) + 1, EVERY):
        run_dir = str(tmp_path / f"full-{moment}")
        if overwrite:
            copy(finished, run_dir)
        with (
            full_at(moment),
            pytest.raises(CotrayError, match="no space left on device; make room") as caught,
        ):
            attempt(config_of(run_dir, *NEW), overwrite=overwrite)
        assert "\n" not in str(caught.value) and run_dir in str(caught.value)
        half_written = [path for path in Path(run_dir).rglob(".*") if path.is_file() and path.name != "lock"]
        assert not half_written
        attempt(config_of(run_dir, *NEW), overwrite=overwrite)
        left = state_of(run_dir)
        assert left.keys() == expected.keys()
        for name, content in expected.items():
            assert left[name] == content, name
        RunFolder(run_dir).delete("")
