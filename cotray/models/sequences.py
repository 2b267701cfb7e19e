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
    id: str = ""

    @property
    def num_tokens(self) -> int:
        return len(self.source) + len(self.target)


@dataclass(frozen=True)
class Batch:
    """`model(**inputs).logits[:, -K:]` predicts `labels_BK`; unsupervised positions are -100.

    `weights_BK` multiply the losses, and have one column where a row's are the same; None where all are 1.
    """

    inputs: dict[str, Any]
    labels_BK: torch.Tensor
    weights_BK: torch.Tensor | None = None

    @property
    def num_places(self) -> int:
        """Tokens that the model computes, with the padding."""
        return sum(
            self.inputs[name].numel() for name in ("input_ids", "decoder_input_ids") if name in self.inputs
        )

    def to(self, device: torch.device) -> Batch:
        moved = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in self.inputs.items()}
        weights_BK = None if self.weights_BK is None else self.weights_BK.to(device)
        return Batch(moved, self.labels_BK.to(device), weights_BK)


def encode(
    example: TrainExample,
    tokenizer: PreTrainedTokenizerBase,
    *,
    is_encoder_decoder: bool,
    ends: bool = True,
) -> Encoded:
    """`encode_all` of one."""
    return encode_all([example], tokenizer, is_encoder_decoder=is_encoder_decoder, ends=ends)[0]


def encode_all(
    examples: Sequence[TrainExample],
    tokenizer: PreTrainedTokenizerBase,
    *,
    is_encoder_decoder: bool,
    ends: bool = True,
) -> list[Encoded]:
    """Tokenize examples; `ends` appends a supervised end-of-sequence token to each.

    Decoder-only text is tokenized as a whole and cut by character offsets, because BPE may merge
    across the boundary; a token belongs to the part in which it ends.
    """
    if not examples:
        return []
    eos: tuple[Any, ...] = (tokenizer.eos_token_id,) if ends else ()
    if is_encoder_decoder:
        sources = tokenizer([e.source for e in examples]).input_ids
        whole = tokenizer([e.target for e in examples], add_special_tokens=False, return_offsets_mapping=True)
        boundaries = [None] * len(examples)
    else:
        whole = tokenizer([e.source + e.target for e in examples], return_offsets_mapping=True)
        boundaries = [len(e.source) for e in examples]
        sources = [()] * len(examples)
    texts = zip(examples, sources, whole.input_ids, whole.offset_mapping, boundaries, strict=True)
    return [_cut(*text, eos) for text in texts]


def _cut(
    example: TrainExample,
    source: Sequence[int],
    ids: Sequence[int],
    offsets: Sequence[tuple[int, int]],
    end_of_source: int | None,
    eos: tuple[Any, ...],
) -> Encoded:
    """What of `ids` has a loss, and where they are one text with the source, up to which character."""
    boundary, num_source = end_of_source or 0, 0
    if end_of_source is not None:
        num_source = next((i for i, (_, end) in enumerate(offsets) if end > boundary), len(ids))
    stops_at = example.supervise_to
    first = boundary + example.supervise_from
    last = boundary + (len(example.target) if stops_at is None else stops_at)
    is_supervised = [first < end <= last for _, end in offsets[num_source:]]
    return Encoded(
        source=(*source, *ids[:num_source]),
        target=(*ids[num_source:], *eos),
        is_supervised=(*is_supervised, *[stops_at is None] * len(eos)),
        weight=example.weight,
        id=example.id,
    )


def collate(
    encoded: Sequence[Encoded], *, pad_token_id: int, is_encoder_decoder: bool, start_token_id: int = 0
) -> Batch:
    """Pad to one batch. `start_token_id` begins an encoder-decoder's decoder input."""
    labels = [[t if s else IGNORED for t, s in zip(e.target, e.is_supervised, strict=True)] for e in encoded]
    is_weighted = any(e.weight != 1 for e in encoded)
    weights_BK = torch.tensor([[e.weight] for e in encoded]) if is_weighted else None
    if is_encoder_decoder:
        # The decoder reads the whole shifted target, also where labels are masked.
        decoder_input = [[start_token_id, *e.target[:-1]] for e in encoded]
        inputs = {
            "input_ids": _pad([e.source for e in encoded], pad_token_id, left=False),
            "attention_mask": _pad([[1] * len(e.source) for e in encoded], 0, left=False),
            "decoder_input_ids": _pad(decoder_input, pad_token_id, left=False),
        }
        return Batch(inputs, _pad(labels, IGNORED, left=False), weights_BK)
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
    return Batch(inputs, shifted[:, -num_columns:], weights_BK)


def pack(encoded: Sequence[Encoded]) -> Batch:
    """One row without padding for a decoder-only model: positions begin anew with every example, by which the
    attention of transformers keeps them apart. Logits are computed for supervised tokens alone."""
    ids, positions, places, labels, weights = [], [], [], [], []
    for e in encoded:
        start = len(ids) + len(e.source) - 1  # the logits there predict the target's first token
        supervised = [place for place, is_supervised in enumerate(e.is_supervised) if is_supervised]
        places += [start + place for place in supervised]
        labels += [e.target[place] for place in supervised]
        weights += [e.weight] * len(supervised)
        ids += [*e.source, *e.target]
        positions += range(e.num_tokens)
    if not places:  # of a worker without examples
        places, labels, weights = [0], [IGNORED], [1.0]
    inputs = {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.tensor([positions]),
        "logits_to_keep": torch.tensor(places),
    }
    is_weighted = any(weight != 1 for weight in weights)
    return Batch(inputs, torch.tensor([labels]), torch.tensor([weights]) if is_weighted else None)


def _first_true(flags: Sequence[bool]) -> int:
    return next((index for index, flag in enumerate(flags) if flag), len(flags))


def _pad(rows: Sequence[Sequence[int]], value: int, *, left: bool) -> torch.Tensor:
    width = max(len(row) for row in rows)
    fills = [[value] * (width - len(row)) for row in rows]
    return torch.tensor([[*f, *r] if left else [*r, *f] for f, r in zip(fills, rows, strict=True)])
