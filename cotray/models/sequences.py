"""TrainExample -> token ids and labels -> padded batches: the one place where targets are masked.

Decoder-only batches are padded on the left, so that targets end in the same column and the model
computes logits for the last K columns only; encoder-decoder batches are padded on the right.

B: batch  S: source or full sequence  K: columns with a label  V: vocabulary
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from cotray.records import TrainExample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100


@dataclass(frozen=True)
class Encoded:
    """`source` and `target` token ids, and for every target token whether it is supervised."""

    source: tuple[int, ...]
    target: tuple[int, ...]
    is_supervised: tuple[bool, ...]
    weight: float = 1.0


@dataclass(frozen=True)
class Batch:
    """`model(**inputs).logits[:, -K:]` predicts `labels_BK`; unsupervised positions are -100.

    `weights_B` multiply the rows' losses; None where all are 1.
    """

    inputs: dict[str, Any]
    labels_BK: torch.Tensor
    weights_B: torch.Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        moved = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in self.inputs.items()}
        weights_B = None if self.weights_B is None else self.weights_B.to(device)
        return Batch(moved, self.labels_BK.to(device), weights_B)


def encode(
    example: TrainExample,
    tokenizer: PreTrainedTokenizerBase,
    *,
    is_encoder_decoder: bool,
    ends: bool = True,
) -> Encoded:
    """Tokenize an example; `ends` appends a supervised end-of-sequence token.

    Decoder-only text is tokenized as a whole and cut by character offsets, because BPE may merge
    across the boundary; a token belongs to the part in which it ends.
    """
    eos: tuple[Any, ...] = (tokenizer.eos_token_id,) if ends else ()
    if is_encoder_decoder:
        source = tuple(tokenizer(example.source).input_ids)
        whole = tokenizer(example.target, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets, boundary = whole.input_ids, whole.offset_mapping, 0
    else:
        whole = tokenizer(example.source + example.target, return_offsets_mapping=True)
        boundary = len(example.source)
        offsets, ids = whole.offset_mapping, whole.input_ids
        first = next((i for i, (_, end) in enumerate(offsets) if end > boundary), len(ids))
        source, ids, offsets = tuple(ids[:first]), ids[first:], offsets[first:]
    stops_at = example.supervise_to
    first = boundary + example.supervise_from
    last = boundary + (len(example.target) if stops_at is None else stops_at)
    is_supervised = [first < end <= last for _, end in offsets] + [stops_at is None] * len(eos)
    return Encoded(source, (*ids, *eos), tuple(is_supervised), example.weight)


def collate(
    encoded: Sequence[Encoded], *, pad_token_id: int, is_encoder_decoder: bool, start_token_id: int = 0
) -> Batch:
    """Pad to one batch. `start_token_id` begins an encoder-decoder's decoder input."""
    labels = [[t if s else IGNORED for t, s in zip(e.target, e.is_supervised, strict=True)] for e in encoded]
    is_weighted = any(e.weight != 1 for e in encoded)
    weights_B = torch.tensor([e.weight for e in encoded]) if is_weighted else None
    if is_encoder_decoder:
        # The decoder reads the whole shifted target, also where labels are masked.
        decoder_input = [[start_token_id, *e.target[:-1]] for e in encoded]
        inputs = {
            "input_ids": _pad([e.source for e in encoded], pad_token_id, left=False),
            "attention_mask": _pad([[1] * len(e.source) for e in encoded], 0, left=False),
            "decoder_input_ids": _pad(decoder_input, pad_token_id, left=False),
        }
        return Batch(inputs, _pad(labels, IGNORED, left=False), weights_B)
    full = [[*e.source, *e.target] for e in encoded]
    mask = _pad([[1] * len(ids) for ids in full], 0, left=True)
    # Logits at position t predict the token at t + 1: labels move one to the left.
    num_columns = 1 + max(len(e.target) - _first_true(e.is_supervised) for e in encoded)
    shifted = _pad([[*row, IGNORED] for row in labels], IGNORED, left=True)
    inputs = {
        "input_ids": _pad(full, pad_token_id, left=True),
        "attention_mask": mask,
        "position_ids": (mask.cumsum(1) - 1).clamp(min=0),
        "logits_to_keep": num_columns,
    }
    return Batch(inputs, shifted[:, -num_columns:], weights_B)


def _first_true(flags: Sequence[bool]) -> int:
    return next((index for index, flag in enumerate(flags) if flag), len(flags))


def _pad(rows: Sequence[Sequence[int]], value: int, *, left: bool) -> torch.Tensor:
    width = max(len(row) for row in rows)
    fills = [[value] * (width - len(row)) for row in rows]
    return torch.tensor([[*f, *r] if left else [*r, *f] for f, r in zip(fills, rows, strict=True)])
