"""Draws of tokens, worked out on plain integers."""

from __future__ import annotations


def splitmix(seed: int, step: int) -> float:
    """The published splitmix64 step on plain integers."""
    mask = 2**64 - 1
    x = (seed + (step + 1) * 0x9E3779B97F4A7C15) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return ((x ^ (x >> 31)) >> 11) / 2**53
