"""Text generation in batches, for both kinds of model: greedy, or with a choice of one's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch

from cotray.inference.contexts import pad_contexts
from cotray.inference.token_choice import TokenChoice
from cotray.models.caches import with_cache

if TYPE_CHECKING:
    from transformers import LogitsProcessor


def generate_texts(
    model, tokenizer, sources: Sequence[str], *, forced: str, max_new_tokens: int
) -> list[str]:
    """Continue each source, which is followed by `forced` (encoder-decoders: the decoder starts with it).

    Returns the continuations without `forced`, up to the end of sequence.
    """
    written = generate_ids(model, tokenizer, sources, forced=forced, max_new_tokens=max_new_tokens)
    return tokenizer.batch_decode(written, skip_special_tokens=True)


@torch.inference_mode()
def generate_ids(
    model,
    tokenizer,
    sources: Sequence[str],
    *,
    forced: str,
    max_new_tokens: int,
    ends_with_line: bool = False,
    on_step: Callable[[list[int]], None] | None = None,
    choice: LogitsProcessor | TokenChoice | None = None,
    ends: Callable[[list[list[int]]], list[bool]] | None = None,
) -> list[list[int]]:
    """As `generate_texts`, in token ids, each with its end of sequence if it has one.

    `ends_with_line` stops a source's generation at its first line break too, which is kept. `choice` changes
    every step's logits, of which the largest is then taken. `on_step` hears every step's token of each source
    while they are made; after a source's end they are padding. `ends` says of each source, by what was
    written for it, whether it is to end there; what follows in its row is padding.
    """
    from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

    greedy = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        stop_strings=["\n"] if ends_with_line else None,
        decoder_start_token_id=model.config.decoder_start_token_id
        if model.config.is_encoder_decoder
        else None,
    )
    if model.config.is_encoder_decoder:
        encoded = tokenizer(list(sources), return_tensors="pt", padding=True, padding_side="right")
        inputs = {name: encoded[name].to(model.device) for name in ("input_ids", "attention_mask")}
        start = [model.config.decoder_start_token_id, *tokenizer(forced, add_special_tokens=False).input_ids]
        inputs["decoder_input_ids"] = torch.tensor([start] * len(sources), device=model.device)
        num_forced = len(start)
    else:
        rows = tokenizer([source + forced for source in sources]).input_ids
        ids_BS, mask_BS, cache = pad_contexts(model, rows)
        inputs = {"input_ids": ids_BS, "attention_mask": mask_BS, **with_cache(model, cache)}
        num_forced = ids_BS.shape[1]
    streamer = _Steps(on_step) if on_step is not None else None

    def has_ended(ids_BS: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        rows = [_up_to_end(row, tokenizer.eos_token_id) for row in ids_BS[:, num_forced:].tolist()]
        return torch.tensor(ends(rows) if ends else [False] * len(rows), device=ids_BS.device)

    processors, criteria = cast(list[Any], [choice] if choice else []), cast(list[Any], [has_ended])
    output = model.generate(
        **inputs,
        generation_config=greedy,
        tokenizer=tokenizer,
        streamer=streamer,
        logits_processor=LogitsProcessorList(processors),
        stopping_criteria=StoppingCriteriaList(criteria if ends else []),
    )
    return [_up_to_end(row, tokenizer.eos_token_id) for row in output[:, num_forced:].tolist()]


def _up_to_end(row: list[int], eos: int) -> list[int]:
    return row[: row.index(eos) + 1] if eos in row else row


class _Steps:
    """What transformers calls a streamer; theirs take one sequence, generation itself takes a batch."""

    def __init__(self, on_step: Callable[[list[int]], None]) -> None:
        self.on_step = on_step
        self.is_prompt = True

    def put(self, value: torch.Tensor) -> None:
        if not self.is_prompt:
            self.on_step(value.reshape(-1).tolist())
        self.is_prompt = False

    def end(self) -> None:
        pass
