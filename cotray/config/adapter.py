"""The section `student.adapter`: small weights that are learned beside those of the model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from cotray.config.base import Config


def _known(kind: object) -> object:
    if kind == "qlora":
        raise ValueError(
            "qlora is not there: its 4-bit weights need bitsandbytes on a GPU, and cannot be read in shards. "
            "Set kind to lora, whose frozen weights are sharded over the workers"
        )
    return kind


class AdapterConfig(Config):
    kind: Annotated[Literal["lora"], BeforeValidator(_known)]
    """Low-rank adaptation (Hu et al. 2022): W + alpha / rank * B A, of which only A and B are learned."""
    rank: int = Field(default=16, ge=1)
    """Rows of A, columns of B."""
    alpha: float = Field(default=32.0, gt=0)
    """Over `rank`, what the product is multiplied by."""
    targets: Literal["all-linear"] | list[str] = Field(default="all-linear", min_length=1)
    """Names of the linear layers of a block that are adapted, such as [q_proj, v_proj]; `all-linear`: all."""
