"""log p(candidate | context) for several candidates per context; what they share is computed once.

B: contexts  N: candidates of all contexts  S: shared tokens  C: candidate tokens  V: vocabulary
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cotray.inference.contexts import common_prefix
from cotray.inference.teacher_forcing import token_logprobs
from cotray.models.sequences import Encoded, collate, encode
from cotray.records import TrainExample


@dataclass(frozen=True)
class Context:
    """What stands before the candidates: the input, and the part of the target already fixed."""

    source: str
    target_prefix: str
    candidates: Sequence[str]


@torch.inference_mode()
def candidate_logprobs(model, tokenizer, contexts: Sequence[Context]) -> list[list[float]]:
    """Natural-log probability of each candidate's tokens, end of sequence not included."""
    is_encoder_decoder = model.config.is_encoder_decoder
    encoded = [encode_candidates(c, tokenizer, is_encoder_decoder=is_encoder_decoder) for c in contexts]
    if is_encoder_decoder:
        return _score_encoder_decoder(model, tokenizer, encoded)
    return _score_decoder_only(model, encoded)


def encode_candidates(context: Context, tokenizer, *, is_encoder_decoder: bool) -> list[Encoded]:
    """One sequence per candidate, whose supervised tokens are the candidate's."""
    prefix = context.target_prefix
    return [
        encode(
            TrainExample("", "factual", context.source, prefix + text, len(prefix)),
            tokenizer,
            is_encoder_decoder=is_encoder_decoder,
            ends=False,
        )
        for text in context.candidates
    ]


def likeliest(candidates: Sequence[str], logprobs: Sequence[float]) -> str:
    """The candidate with the highest log-probability; the first of equals."""
    return max(zip(logprobs, candidates, strict=True), key=lambda pair: pair[0])[1]


def _score_decoder_only(model, encoded) -> list[list[float]]:
    full = [[[*e.source, *e.target] for e in group] for group in encoded]
    num_shared = [_num_shared(rows, group[0]) for rows, group in zip(full, encoded, strict=True)]
    scores = token_logprobs(
        model,
        [rows[0][:n] for rows, n in zip(full, num_shared, strict=True)],
        [[row[n:] for row in rows] for rows, n in zip(full, num_shared, strict=True)],
    )
    return [
        [_sum_supervised(tokens, e, n - len(e.source)) for tokens, e in zip(row, group, strict=True)]
        for row, group, n in zip(scores, encoded, num_shared, strict=True)
    ]


def _score_encoder_decoder(model, tokenizer, encoded) -> list[list[float]]:
    flat = [e for group in encoded for e in group]
    batch = collate(
        flat,
        pad_token_id=tokenizer.pad_token_id,
        is_encoder_decoder=True,
        start_token_id=model.config.decoder_start_token_id,
    ).to(model.device)
    first_B = torch.tensor(
        [sum(len(g) for g in encoded[:b]) for b in range(len(encoded))], device=model.device
    )
    context_N = torch.tensor([b for b, group in enumerate(encoded) for _ in group], device=model.device)
    mask_NS = batch.inputs["attention_mask"]
    hidden = model.get_encoder()(
        input_ids=batch.inputs["input_ids"][first_B], attention_mask=mask_NS[first_B]
    )
    hidden.last_hidden_state = hidden.last_hidden_state[context_N]
    logits_NCV = model(
        encoder_outputs=hidden, attention_mask=mask_NS, decoder_input_ids=batch.inputs["decoder_input_ids"]
    ).logits
    return _regroup(_sum_logprobs(logits_NCV, batch.labels_BK), encoded)


def _sum_logprobs(logits_NCV: torch.Tensor, labels_NC: torch.Tensor) -> list[float]:
    loss = torch.nn.functional.cross_entropy(
        logits_NCV.float().flatten(0, 1), labels_NC.flatten(), ignore_index=-100, reduction="none"
    )
    return (-loss.view(labels_NC.shape).sum(1)).tolist()


def _num_shared(rows: list[list[int]], first: Encoded) -> int:
    """Tokens that all rows start with, before the first scored token and before any row's last one."""
    limit = min(len(first.source) + first.is_supervised.index(True), *(len(row) - 1 for row in rows))
    return common_prefix(rows, limit)


def _sum_supervised(logprobs: Sequence[float], encoded: Encoded, start: int) -> float:
    """Over the target's supervised tokens; `logprobs` begin at its place `start`, below 0 in the source."""
    is_scored = [False] * -start + list(encoded.is_supervised[max(start, 0) :])
    return sum(value for value, is_ in zip(logprobs, is_scored, strict=True) if is_)


def _regroup(values: list[float], groups) -> list[list[float]]:
    values = iter(values)  # type: ignore[assignment]
    return [[next(values) for _ in group] for group in groups]  # type: ignore[call-overload]
