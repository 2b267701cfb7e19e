"""The section `student.adapter`: small weights that are learned beside those of the model."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cotray.config.base import Config


class AdapterConfig(Config):
    kind: Literal["lora", "qlora"]
    """Low-rank adaptation (Hu et al. 2022): W + alpha / rank * B A, of which only A and B are learned. With
    `qlora` (Dettmers et al. 2023) every worker holds W whole, in 4 bits, by bitsandbytes; with `lora` the
    workers share it in float32."""
    rank: int = Field(default=16, ge=1)
    """Rows of A, columns of B."""
    alpha: float = Field(default=32.0, gt=0)
    """Over `rank`, what the product is multiplied by."""
    targets: Literal["all-linear"] | list[str] = Field(default="all-linear", min_length=1)
    """Names of the linear layers of a block that are adapted, such as [q_proj, v_proj]; `all-linear`: all."""
