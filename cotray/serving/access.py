"""Who may ask, and how often: bearer tokens and a rate per key."""

from __future__ import annotations

import hashlib
import hmac
import os
import time
from collections.abc import Callable
from pathlib import Path

from cotray.config import ServingConfig
from cotray.errors import ConfigError

VARIABLE = "COTRAY_API_KEYS"


def load_keys(config: ServingConfig) -> tuple[str, ...]:
    """The accepted keys; () where serving is open. ConfigError where none are given."""
    if config.api_keys == "open":
        return ()
    if config.api_keys:
        try:
            lines = Path(config.api_keys).expanduser().read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"serving.api_keys={config.api_keys}: cannot be read ({error})") from None
    else:
        lines = os.environ.get(VARIABLE, "").split(",")
    keys = tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))
    if not keys:
        raise ConfigError(
            f"no API key: set {VARIABLE} or serving.api_keys to a file with one key per line, or "
            "serving.api_keys=open for loopback alone"
        )
    return keys


class Access:
    """Checks the header `Authorization: Bearer KEY`, and counts requests per key."""

    def __init__(
        self, keys: tuple[str, ...], *, per_minute: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.digests = [_digest(key) for key in keys]
        self.per_minute, self.clock = per_minute, clock
        self.budgets: dict[bytes, tuple[float, float]] = {}
        """Requests left, and when that was so."""

    def key_of(self, authorization: str) -> bytes | None:
        """A digest of the key, if it is one of ours; b"" where serving is open."""
        if not self.digests:
            return b""
        scheme, _, token = authorization.partition(" ")
        given = _digest(token.strip())
        # Every key is compared, and of each every byte, so that the time tells nothing.
        matches = [hmac.compare_digest(given, digest) for digest in self.digests]
        return given if scheme.lower() == "bearer" and any(matches) else None

    def wait_s(self, key: bytes) -> float:
        """0 and one request less, or seconds until there is one left."""
        if not self.per_minute:
            return 0.0
        now = self.clock()
        left, since = self.budgets.get(key, (float(self.per_minute), now))
        left = min(self.per_minute, left + (now - since) * self.per_minute / 60)
        if left < 1:
            self.budgets[key] = (left, now)
            return (1 - left) * 60 / self.per_minute
        self.budgets[key] = (left - 1, now)
        return 0.0


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
