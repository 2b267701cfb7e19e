"""Draws of tokens that depend on a row's own seed and step, not on batch, order or device.

B: rows  V: vocabulary
"""

from __future__ import annotations

import torch


def draw(scores_BV: torch.Tensor, uniform_B: torch.Tensor) -> torch.Tensor:
    """One token per row from softmax(scores). In float64, since a float32 sum over a vocabulary drifts."""
    cdf_BV = scores_BV.double().softmax(-1).cumsum(-1)
    total_B1 = cdf_BV[:, -1:]
    drawn_B1 = torch.searchsorted(cdf_BV, uniform_B.to(cdf_BV)[:, None] * total_B1, right=True)
    last_possible_B = (cdf_BV < total_B1).sum(-1)  # rounding must not lead past it
    return torch.minimum(drawn_B1.squeeze(-1), last_possible_B)


def uniforms(seed_B: torch.Tensor, step_B: torch.Tensor) -> torch.Tensor:
    """One number in [0, 1) per row from its seed (int64) and step: the splitmix64 generator, so that a
    row's draws depend on nothing else, on every device."""

    def mixed(x: torch.Tensor, shift: int) -> torch.Tensor:
        return x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))

    x = seed_B + (step_B + 1) * -7046029254386353131
    x = mixed(x, 30) * -4658895280553007687
    x = mixed(x, 27) * -7723592293110705685
    x = mixed(x, 31)
    return ((x >> 11) & ((1 << 53) - 1)).double() / 2**53
