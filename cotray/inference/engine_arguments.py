"""Arguments of an engine whose names and types another library has, such as vLLM's EngineArgs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from cotray.config.references import Reference
from cotray.errors import ConfigError


def typed(arguments: Mapping[str, Any], kind: type, *, key: str) -> dict[str, Any]:
    """The arguments, with the type that `kind` declares for those that came from the environment as text.

    Text stays a Reference, which the engine's own log shows as it was written. `key`: where the arguments
    are in the configuration, for the ConfigError of one that does not fit.
    """
    values = dict(arguments)
    for name, value in arguments.items():
        if not isinstance(value, Reference) or (hint := _hint(kind, name)) is None:
            continue
        try:
            found = TypeAdapter(hint).validate_python(str(value))
        except ValidationError as error:
            raise ConfigError(f"{key}.{name}: {value.written} is {error.errors()[0]['msg']}") from None
        if not isinstance(found, str):
            values[name] = found
    return values


def _hint(kind: type, name: str) -> Any:
    """The type of one field; None where there is no such field, or its type has names that are known to type
    checkers alone."""
    for base in kind.__mro__:
        if name in (annotations := vars(base).get("__annotations__", {})):
            one = type(base.__name__, (), {"__annotations__": {name: annotations[name]}})
            with contextlib.suppress(NameError):
                return get_type_hints(one, vars(sys.modules[base.__module__]))[name]
    return None
