"""Who may ask, and how often: bearer tokens, a rate per key, and loopback alone where there are no keys."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection

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
    stripped = (line.strip() for line in lines)
    keys = tuple(line for line in stripped if line and not line.startswith("#"))
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
        left = self._left(key)
        if left < 1:
            return (1 - left) * 60 / self.per_minute
        self.budgets[key] = (left - 1, self.clock())
        return 0.0

    def charge(self, key: bytes, num_requests: int) -> None:
        """So many requests less; below zero the key waits until time has paid for them."""
        if self.per_minute:
            self.budgets[key] = (self._left(key) - num_requests, self.clock())

    def _left(self, key: bytes) -> float:
        now = self.clock()
        left, since = self.budgets.get(key, (float(self.per_minute), now))
        return min(self.per_minute, left + (now - since) * self.per_minute / 60)


def is_local(request: HTTPConnection) -> bool:
    """Whether the client is on this machine, and knows the service by a name of this machine.

    A web page of another host may have its name resolved to 127.0.0.1, and then a browser here asks for
    it; and what a proxy here passes on comes from anywhere.
    """
    headers = request.headers
    if "forwarded" in headers or "x-forwarded-for" in headers:
        return False
    return _is_loopback(request.client.host if request.client else "") and _is_loopback(_host(headers))


def _host(headers: Headers) -> str:
    try:
        return urlsplit(f"//{headers.get('host', '')}").hostname or ""
    except ValueError:
        return ""


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
