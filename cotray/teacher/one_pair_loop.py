"""SCOTT's loop over one pair at a time, as plain as it can be written: two caches, batch 1.

The batched engines must give its tokens exactly; the benchmark gives its rate.
"""

from __future__ import annotations

import torch

from cotray.models.caches import cache_of, with_cache


@torch.inference_mode()
def one_pair_loop(
    model,
    tokenizer,
    grounded: str,
    contrast: str,
    *,
    weight: float,
    plausibility: float,
    max_new_tokens: int,
) -> tuple[list[int], str]:
    """Token ids of the rationale and the stop reason; weight 0 is plain greedy decoding."""
    tokens: list[int] = []
    inputs = [
        tokenizer(text, return_tensors="pt").to(model.device).input_ids for text in (grounded, contrast)
    ]
    caches = [None, None]
    while len(tokens) < max_new_tokens:
        logp = []
        for branch in range(2):
            out = model(input_ids=inputs[branch], use_cache=True, **with_cache(model, caches[branch]))
            caches[branch] = cache_of(out)
            logp.append(out.logits[0, -1].float().log_softmax(-1))
        greedy = int(logp[0].argmax())
        if greedy == tokenizer.eos_token_id:
            return tokens, "eos"
        if "\n" in tokenizer.decode([greedy]):
            return tokens, "greedy_stop"
        scores = logp[0] - weight * logp[1]
        if plausibility > 0:
            scores[logp[0].exp() < plausibility * logp[0].exp().max()] = -torch.inf
        chosen = int(scores.argmax())
        if chosen == tokenizer.eos_token_id:
            return tokens, "eos"
        if "\n" in tokenizer.decode([chosen]):
            return tokens, "contrast_stop"
        tokens.append(chosen)
        inputs = [torch.tensor([[chosen]], device=model.device)] * 2
    return tokens, "length"
