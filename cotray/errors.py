"""What can go wrong because of a user's input. Messages say what, where and the way out.

Every class keeps the default constructor, because Ray pickles exceptions between processes.
"""

from __future__ import annotations

import re


class CotrayError(Exception):
    """Base of the errors a job prints as one line; anything else is a bug and keeps its traceback."""


class ConfigError(CotrayError, ValueError):
    """A wrong key or value in the configuration, or a model that cannot be used. Exit code 2."""


class DataError(CotrayError, ValueError):
    """Missing, unreadable or unusable input data. Exit code 2."""


class StorageBusy(DataError):
    """The storage could not be reached, or was overloaded or failing, for longer than a request's retries."""


class StageError(CotrayError, RuntimeError):
    """A stage ran and failed, or its output does not belong to this configuration. Exit code 1."""


class StageInUse(StageError):
    """Another process is at work on the same verb in the same run folder."""


class Halted(StageError):
    """Work must not go on, such as at a cost cap: the stage ends, and what is made stays."""


class EngineDied(CotrayError, RuntimeError):
    """An engine's process is gone; its replica must go too. Ray starts another."""


class TooLong(CotrayError, ValueError):
    """A question that does not fit into the student's window."""


def cotray_error(error: BaseException | None) -> CotrayError | None:
    """The CotrayError behind what Ray raises when one crosses processes, if there is one."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        cause = getattr(error, "cause", None)
        if isinstance(error, CotrayError):
            # Ray makes a class of its own whose text is the remote traceback; the cause has our line.
            return cause if isinstance(cause, CotrayError) else error
        # Of an actor that failed in its constructor, Ray passes on the text alone.
        quoted = re.search(r"cotray\.errors\.(\w+): (.+)", str(error))
        kind = globals().get(quoted[1]) if quoted else None
        # Any text may come to look like that, and name no class of ours.
        if quoted and isinstance(kind, type) and issubclass(kind, CotrayError):
            return kind(quoted[2])
        seen.add(id(error))
        error = cause or error.__cause__ or error.__context__
    return None
