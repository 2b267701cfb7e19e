"""Contrastive decoding with an encoder-decoder such as Flan-T5: exact in float32, on any device.

The encoder reads a branch's whole prompt, with its answer, and the decoder writes the rationale. As every
token of the prompt sees every other, branches share nothing that could be computed once; pairs that are
decoded together begin together, and one that has ended makes no place for another.

B: rows, two neighbouring ones per pair  S: prompt  V: vocabulary
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from cotray.errors import ConfigError
from cotray.models.caches import with_cache
from cotray.models.loading import load_for_inference
from cotray.prompts.teacher import Demonstrations
from cotray.records import QAPair
from cotray.teacher.transformers_teacher import Pair, TransformersTeacher

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from cotray.config import TeacherConfig


def transformers_teacher(
    config: TeacherConfig,
    *,
    method: str,
    seed: int = 0,
    own: Demonstrations | None = None,
    loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = None,
) -> TransformersTeacher:
    """The engine for the architecture of `loaded`, or else of `config.model`."""
    if loaded is None:
        loaded = load_for_inference(config.model, revision=config.revision, dtype=config.dtype)
    kind = EncoderDecoderTeacher if loaded[0].config.is_encoder_decoder else TransformersTeacher
    return kind(config, method=method, seed=seed, own=own, loaded=loaded)


class EncoderDecoderTeacher(TransformersTeacher):
    """An encoder-decoder that explains given answers. Not safe for concurrent calls."""

    def _make_place(self) -> None:
        if self.config.prompt == "chat":
            raise ConfigError(
                f"teacher.model '{self.config.model}' is an encoder-decoder, which reads no chat; set "
                "teacher.prompt=completion"
            )
        generation: Any = self.model.generation_config
        forced = getattr(generation, "forced_bos_token_id", None)  # BART writes it first
        start: Any = self.model.config.decoder_start_token_id
        self.start = [start] if forced is None else [start, forced]

    @torch.inference_mode()
    def choice_logprobs(self, pair: QAPair) -> list[float]:
        """log p(choice | question) of every choice, written by the decoder after it read the question."""
        stem, choices = self.prompts.choices(pair)
        states, mask_BS = self._encoded([self._ids(stem)])
        scores = []
        for choice in choices:
            target = self.tokenizer(choice.strip(), add_special_tokens=False).input_ids
            ids = torch.tensor([[*self.start, *target]], device=self.model.device)
            logits = self.model(encoder_outputs=states, attention_mask=mask_BS, decoder_input_ids=ids).logits
            logp_KV = logits[0, len(self.start) - 1 : -1].float().log_softmax(-1)
            scores.append(logp_KV.gather(-1, ids[0, len(self.start) :, None]).sum().item())
        return scores

    def _decode(self, shared_ids: Sequence[int], pairs: list[Pair]) -> Iterable[Pair]:
        for first in range(0, len(pairs), self.config.max_pairs):
            yield from self._decode_together(pairs[first : first + self.config.max_pairs])

    def _decode_together(self, active: list[Pair]) -> Iterable[Pair]:
        """Yields each pair as it ends; its rows leave the batch."""
        from transformers import DynamicCache, EncoderDecoderCache

        states, mask_BS = self._encoded([branch for pair in active for branch in pair.branches])
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        ids = [self.start] * len(mask_BS)
        while active:
            logits_BV = self._next_logits(ids, states, mask_BS, cache)
            self._append(active, logits_BV)
            kept = [place for place, pair in enumerate(active) if not pair.decoded.stop_reason]
            yield from (pair for pair in active if pair.decoded.stop_reason)
            if len(kept) < len(active):
                n = self.num_branches
                rows = torch.tensor([place * n + branch for place in kept for branch in range(n)]).long()
                rows = rows.to(mask_BS.device)
                cache.batch_select_indices(rows)
                states.last_hidden_state, mask_BS = states.last_hidden_state[rows], mask_BS[rows]
                active = [active[place] for place in kept]
            ids = [[pair.decoded.tokens[-1]] for pair in active for _ in range(self.num_branches)]

    @torch.inference_mode()
    def _next_logits(
        self, ids: list[list[int]], states: Any, mask_BS: torch.Tensor, cache: Any
    ) -> torch.Tensor:
        """`(B, V)`; the cache grows by the ids."""
        return self.model(
            encoder_outputs=states,
            attention_mask=mask_BS,
            decoder_input_ids=torch.tensor(ids, device=self.model.device),
            use_cache=True,
            **with_cache(self.model, cache),
        ).logits[:, -1]

    @torch.inference_mode()
    def _encoded(self, rows: Sequence[Sequence[int]]) -> tuple[Any, torch.Tensor]:
        """What the encoder makes of the rows, padded on the right, and their mask `(B, S)`."""
        longest, pad = max(map(len, rows)), self.tokenizer.pad_token_id
        device = self.model.device
        ids_BS = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows], device=device)
        mask_BS = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=device)
        encoder: Any = self.model.get_encoder()
        return encoder(input_ids=ids_BS, attention_mask=mask_BS), mask_BS

    def _too_long(self, branches: list[list[int]]) -> str:
        limit = getattr(self.model.config, "max_position_embeddings", None) or 1 << 30
        num_read = max(map(len, branches))
        num_new = len(self.start) + self.config.decoding.max_new_tokens
        if max(num_read, num_new) <= limit:
            return ""
        return f"over-long: the prompt needs {num_read} positions and the rationale {num_new}, of {limit}"
