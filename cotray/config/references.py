"""`${NAME}` in a configuration: what it stands for is used, and what was written is what is written again.

A value is replaced as text, whatever is in it; its type is that of the key. Whoever writes a configuration
or a part of one passes it through `as_written` or `recorded`, so that a token from the environment gets
into no file.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from cotray.errors import ConfigError

_KNOWN: dict[str, str] = {}
"""What this process must not show -> as it was written."""
_PATTERN = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")
SHORTEST = 6
"""Characters of a value that `hidden` looks for: shorter ones, such as null, root or prod, are parts of other
words."""
Path = tuple[str | int, ...]
"""The keys, and the positions in lists, that lead to a value."""


class Reference(str):
    """A text from the environment: it is the value itself, and knows as what it was written.

    Where a key is text, pydantic makes a plain string of it; in mappings of any values it stays.
    """

    written: str

    def __new__(cls, value: str, written: str) -> Reference:
        reference = super().__new__(cls, value)
        reference.written = written
        return reference

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived, (str(self), self.written)

    def __repr__(self) -> str:
        """As written, because tracebacks and messages show it."""
        return repr(self.written)


def resolved(node: Any, source: str, *, is_lenient: bool = False) -> Any:
    """The tree with a Reference in place of every text with a `${NAME}` or `${NAME:-default}` in it.

    `is_lenient` leaves what is not set as it is. Otherwise raises ConfigError, which begins with `source`.
    """
    if isinstance(node, dict):
        return {key: resolved(value, source, is_lenient=is_lenient) for key, value in node.items()}
    if isinstance(node, list):
        return [resolved(value, source, is_lenient=is_lenient) for value in node]
    if not isinstance(node, str) or not has_reference(node):
        return node

    def value_of(match: re.Match[str]) -> str:
        name, default = match.group(1), match.group(2)
        value = os.environ.get(name, default)
        if value is None and not is_lenient:
            raise ConfigError(
                f"{source}: environment variable {name} is not set; set it or write ${{{name}:-DEFAULT}}"
            )
        return match[0] if value is None else value

    value = _PATTERN.sub(value_of, node)
    return Reference(value, node)


def has_reference(text: str) -> bool:
    return bool(_PATTERN.search(text))


def references(node: Any, path: Path = ()) -> Iterator[tuple[Path, Reference]]:
    """Every Reference in a tree, with the way to it."""
    if isinstance(node, Reference):
        yield path, node
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from references(value, (*path, key))
    elif isinstance(node, list | tuple):
        for position, value in enumerate(node):
            yield from references(value, (*path, position))


def as_written(node: Any) -> Any:
    """The tree with what was written in place of every Reference."""
    return _replaced(node, lambda reference: reference.written)


def recorded(node: Any) -> Any:
    """For files that are compared later: what was written, and a check by which another value is noticed."""
    return _replaced(node, lambda reference: f"{reference.written}#{_check(reference, reference.written)}")


def keep_hidden(reference: Reference) -> None:
    """From now on `hidden` replaces the value, and that of each variable in it, in this process."""
    _KNOWN.update(_values(reference))


def hidden(text: str, also: Iterable[Reference] = ()) -> str:
    """A text for the terminal, a log or a row, with what was written in place of what is to be hidden."""
    known = dict(_KNOWN)
    for reference in also:
        known |= _values(reference)
    for value in sorted(known, key=len, reverse=True):
        if len(value) >= SHORTEST:
            text = text.replace(value, known[value])
            # As it stands where a message quotes another value's repr.
            text = text.replace(repr(value)[1:-1], known[value])
    return text


def _values(reference: Reference) -> dict[str, str]:
    """The text, and what each variable in it stands for, with their references."""
    parts = {os.environ[m[1]]: m[0] for m in _PATTERN.finditer(reference.written) if m[1] in os.environ}
    return {str(reference): reference.written} | {value: written for value, written in parts.items() if value}


def _arrived(value: str, written: str) -> Reference:
    """One that came from another process."""
    reference = Reference(value, written)
    keep_hidden(reference)
    return reference


def _replaced(node: Any, shown: Any) -> Any:
    if isinstance(node, Reference):
        return shown(node)
    if isinstance(node, dict):
        return {key: _replaced(value, shown) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_replaced(value, shown) for value in node]
    return node


@lru_cache(maxsize=256)
def _check(value: str, written: str) -> str:
    """20 bits of a slow hash: a changed value passes once in a million times, and of a guessable one a
    million others have the same."""
    salt = written.encode(errors="surrogatepass")
    digest = hashlib.scrypt(value.encode(errors="surrogatepass"), salt=salt, n=1 << 12, r=8, p=1, dklen=3)
    return digest.hex()[:5]
