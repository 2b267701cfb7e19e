"""The best token of a pair of rows on a CPU, looking at the plausible ones alone.

With `plausibility` only tokens near the likeliest one may be chosen, a few of a hundred thousand. Everything
vocabulary-wide is then two passes over the grounded row (its largest value, and which values are near it),
without a copy, and the contrast row is read at those few places.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch


def best_plausible(
    logits_RV: torch.Tensor,
    grounded_B: Sequence[int],
    contrast_B: Sequence[int],
    weight_B: Sequence[float],
    *,
    plausibility: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(chosen, greedy) tokens `(B,)` of the rows with these numbers: those of contrastive.choose_tokens,
    operation for operation, for float32 logits on the CPU and plausibility > 0.

    R: rows of the batch  B: pairs  V: vocabulary
    """
    rows = logits_RV.numpy()
    near = np.float32(math.log(plausibility))
    chosen = np.empty(len(grounded_B), np.int64)
    greedy = np.empty_like(chosen)
    for pair, (grounded, contrast, weight) in enumerate(zip(grounded_B, contrast_B, weight_B, strict=True)):
        grounded_V = rows[grounded]
        plausible = np.flatnonzero(grounded_V >= grounded_V.max() + near)
        if not plausible.size:  # a row with NaN: the first one, as torch says
            chosen[pair] = greedy[pair] = grounded_V.argmax()
            continue
        likely = grounded_V[plausible]
        other = np.maximum(rows[contrast][plausible], np.float32(-1e30))
        chosen[pair] = plausible[(other * np.float32(-weight) + likely).argmax()]
        greedy[pair] = plausible[likely.argmax()]
    return torch.from_numpy(chosen), torch.from_numpy(greedy)
