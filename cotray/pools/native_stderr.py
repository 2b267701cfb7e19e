"""Keeps lines that Ray's C++ code writes to standard error, and that say nothing to a user, off the terminal.

Ray writes errors of its core worker both to a log file of the session and, past Python and its settings, to
the driver's standard error. There is no switch for one line of it, and the switch for all would hide why Ray
ends a process.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
from collections.abc import Iterator
from typing import TextIO

KNOWN = (
    # Ray Data holds what its actors are constructed from until the pipeline ends.
    b"has constructor arguments in the object store and max_restarts > 0",
)
WAIT_S = 0.2
"""What is not a whole line yet is passed on after so long."""


@contextlib.contextmanager
def without_known_lines() -> Iterator[None]:
    """Drop lines of KNOWN that reach file descriptor 2 inside; Ray's log python-core-driver-*.log has them.

    Python's own standard error goes on as it is, to a terminal too.
    """
    saved = os.dup(2)
    source, sink = os.pipe()
    os.dup2(sink, 2)
    os.close(sink)
    thread = threading.Thread(target=_pass_on, args=(source, saved), name="cotray-stderr", daemon=True)
    thread.start()
    own = _on_descriptor(saved) if _is_descriptor_2() else sys.stderr
    before, sys.stderr = sys.stderr, own
    try:
        yield
    finally:
        own.flush()
        if sys.stderr is own:
            sys.stderr = before
        os.dup2(saved, 2)  # the pipe's last end in this process: its reader sees the end
        thread.join(timeout=1)  # unless a process that was started here still has it
        if own is not before:
            own.close()
        os.close(saved)


def _is_descriptor_2() -> bool:
    with contextlib.suppress(OSError, AttributeError, ValueError):
        return sys.stderr.fileno() == 2
    return False


def _on_descriptor(descriptor: int) -> TextIO:
    errors = "backslashreplace"
    return os.fdopen(os.dup(descriptor), "w", buffering=1, encoding=sys.stderr.encoding, errors=errors)


def _pass_on(source: int, target: int) -> None:
    held = b""
    while True:
        if held and not select.select([source], [], [], WAIT_S)[0]:
            _write(target, held)
            held = b""
        chunk = os.read(source, 1 << 16)
        if not chunk:
            break
        *lines, held = (held + chunk).split(b"\n")
        _write(target, b"".join(line + b"\n" for line in lines if not _is_known(line)))
    _write(target, held)
    os.close(source)


def _is_known(line: bytes) -> bool:
    return any(text in line for text in KNOWN)


def _write(target: int, text: bytes) -> None:
    with contextlib.suppress(OSError):  # a terminal that is gone
        while text:
            text = text[os.write(target, text) :]
