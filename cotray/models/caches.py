"""Keys and values that a model has computed: `cache` in transformers 5.24, and `past_key_values` before."""

from __future__ import annotations

import inspect
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def with_cache(model: PreTrainedModel, cache: Any) -> dict[str, Any]:
    """The argument of a forward pass, or of generate, that gives the model the cache; None: an empty one."""
    return {_name(type(model)): cache}


def cache_of(output: Any) -> Any:
    """The cache with what a forward pass has added."""
    return output["cache" if "cache" in output else "past_key_values"]


@lru_cache(maxsize=64)
def _name(kind: type[PreTrainedModel]) -> str:
    return "cache" if "cache" in inspect.signature(kind.forward).parameters else "past_key_values"
