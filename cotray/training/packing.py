"""Whether a model keeps examples apart that are packed into one row, found out by trying."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from cotray.errors import ConfigError
from cotray.models.loading import vocabulary_size
from cotray.models.sequences import Encoded, pack
from cotray.training.fsdp import device_of, reshard

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LENGTHS = (5, 9, 7)
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
"""Of the largest logit: rounding is below it, and an example that sees another one far above."""


@torch.no_grad()
def check_packing(model: PreTrainedModel, name: str) -> None:
    """ConfigError where a model's logits of packed examples are not those of each alone; all workers call it.

    transformers builds the mask from positions that begin anew; models with a state of their own beside
    attention (Mamba, hybrids) or a mask of their own do not know of it.
    """
    reason = "an encoder-decoder" if model.config.is_encoder_decoder else ""
    if not reason:
        try:
            reason = "" if _keeps_apart(model) else "and its examples see each other when they are packed"
        except (ValueError, TypeError, RuntimeError, IndexError) as error:
            reason = " ".join(str(error).split())[:200]
    if reason:
        raise ConfigError(
            f"batching=packed: '{name}' is {type(model).__name__}, {reason}. Set training.batching to padded"
        )


def _keeps_apart(model: PreTrainedModel) -> bool:
    was_training = model.training
    model.eval()
    generator = torch.Generator().manual_seed(0)
    vocabulary = vocabulary_size(model)
    rows = []
    for length in LENGTHS:
        ids = tuple(torch.randint(0, vocabulary, (length,), generator=generator).tolist())
        rows.append(Encoded(ids[:1], ids[1:], (True,) * (length - 1)))
    alone = [model(**pack([row]).to(device_of(model)).inputs, use_cache=False).logits[0] for row in rows]
    together = model(**pack(rows).to(device_of(model)).inputs, use_cache=False).logits[0]
    reshard(model)
    model.train(was_training)
    expected = torch.cat(alone).float()
    errors = (together.float() - expected).abs().amax(-1)
    # In bfloat16 rounding may send single tokens to other experts; two thirds of all see others if any do.
    error = errors.max() if together.dtype == torch.float32 else errors.median()
    return bool(error <= TOLERANCE[together.dtype] * expected.abs().max())
