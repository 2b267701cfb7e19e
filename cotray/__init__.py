"""Distils faithful chain-of-thought students on Ray. From Python: see cotray.api."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cotray.api import Student, contrastive_generate, las, simulate

__all__ = ["Student", "contrastive_generate", "las", "simulate"]


def __getattr__(name: str) -> Any:
    """The public functions, imported when they are first asked for: the verbs start without them."""
    if name not in __all__:
        raise AttributeError(f"module 'cotray' has no attribute '{name}'")
    from cotray import api

    return getattr(api, name)
