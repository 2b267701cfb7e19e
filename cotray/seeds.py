"""Randomness derived from (seed, record id), so that order, batching and replicas change nothing."""

from __future__ import annotations

import hashlib
import random


def digest(seed: int, *parts: str) -> int:
    """A 64-bit hash of the seed and the parts, the same in every process and on every machine."""
    text = "\x1f".join([str(seed), *parts])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def seeded(seed: int, *parts: str) -> random.Random:
    """A random stream of one record's own: `seeded(config.seed, record.id, "perturb")`."""
    return random.Random(digest(seed, *parts))
