"""The transformers teacher: batched contrastive decoding, exact in float32, on any device.

`generate` reads like the algorithm: admit waiting pairs into free slots, take one step for all pairs,
retire the finished ones. Both branches of a pair are neighbouring rows of one forward pass; what they
share is computed once: the demonstrations per task, the question per pair.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from cotray.errors import ConfigError
from cotray.models.loading import load_for_inference
from cotray.models.token_draws import uniforms
from cotray.models.tokenizers import with_own_end
from cotray.prompts.teacher import Demonstrations
from cotray.prompts.teacher_prompts import TeacherPrompts
from cotray.records import QAPair, Rationale, TeacherRequest
from cotray.teacher.contrastive import Decoding, TokenScores, choose_from_rows, token_logprobs
from cotray.teacher.rationale_writer import (
    Decoded,
    RationaleWriter,
    num_common,
    plausibility_of,
    sample_seeds,
    stop_tokens,
)
from cotray.teacher.slot_cache import SlotCache

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from cotray.config import TeacherConfig


@dataclass
class Pair:
    """One draw being decoded; `lengths` counts the own (not shared) tokens of each branch."""

    index: int
    branches: list[list[int]]
    weight: float
    seed: int
    lengths: list[int] = field(default_factory=list)
    decoded: Decoded = field(default_factory=Decoded)


class TransformersTeacher:
    """A causal language model that explains given answers. Not safe for concurrent calls."""

    def __init__(
        self,
        config: TeacherConfig,
        *,
        method: str,
        seed: int = 0,
        own: Demonstrations | None = None,
        loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = None,
    ) -> None:
        """`own`: the user's demonstrations. `loaded`: a model and its tokenizer that are in memory already,
        in place of `config.model`."""
        self.config = config
        self.seed = seed
        if loaded is None:
            loaded = load_for_inference(config.model, revision=config.revision, dtype=config.dtype)
        self.model, self.tokenizer = loaded
        model = self.model
        self.prompts = TeacherPrompts(config, self.tokenizer, own)
        ends: Any = model.generation_config.eos_token_id if model.generation_config else None
        self.stops = stop_tokens(self.tokenizer, with_own_end(self.tokenizer, ends), config.decoding)
        self.num_tokens = len(self.tokenizer)
        self.num_branches = 1 if method == "greedy" else 2
        self._make_place()
        decoding = config.decoding
        self.decoding = Decoding(
            plausibility_of(config, model.num_parameters()), decoding.temperature, decoding.temperature_on
        )
        self.writer = RationaleWriter(
            self.tokenizer, method, config.model, config.record_scores, config.decoding.stop_text
        )

    def _make_place(self) -> None:
        """Raises ConfigError where the model's attention cannot be batched in slots."""
        reference = self._plain_logits()
        # Two at least, which the probe fills.
        self.cache = SlotCache(self.model, num_slots=max(2, self.config.max_pairs * self.num_branches))
        self._require_same(reference)

    def generate(
        self,
        requests: Sequence[TeacherRequest],
        *,
        weights: Sequence[float] | None = None,
        on_finished: Callable[[int], None] = lambda num_tokens: None,
    ) -> list[Rationale]:
        """The Rationales of all requests, in their order; one that cannot be made has `error` set.

        `weights` overrides the configured contrast weight per request.
        """
        draws = self.decode(requests, weights=weights, on_finished=on_finished)
        return self.writer.write_all(requests, draws)

    def decode(
        self,
        requests: Sequence[TeacherRequest],
        *,
        weights: Sequence[float] | None = None,
        on_finished: Callable[[int], None] = lambda num_tokens: None,
    ) -> list[Decoded]:
        """`generate` before its tokens become text: one Decoded per request and draw."""
        num_draws = self.config.decoding.num_draws
        weights = weights or [self.config.decoding.weight] * len(requests)
        seeds = sample_seeds(self.seed, requests, num_draws)
        groups: dict[tuple[int, ...], list[Pair]] = defaultdict(list)
        results: dict[int, Decoded] = {}
        for number, request in enumerate(requests):
            prompt = self.prompts.render(request)
            texts = [prompt.grounded, prompt.contrast][: self.num_branches]
            branches = [self._ids(text) for text in texts]
            too_long = self._too_long(branches)
            for index in range(number * num_draws, (number + 1) * num_draws):
                if too_long:
                    results[index] = Decoded(error=too_long)
                    continue
                pair = Pair(index, list(branches), weights[number], seeds[index])
                groups[tuple(self._ids(prompt.shared))].append(pair)
        for shared_ids, pairs in groups.items():
            for pair in self._decode(shared_ids, pairs):
                results[pair.index] = pair.decoded
                on_finished(len(pair.decoded.tokens))
        return [results[index] for index in range(len(requests) * num_draws)]

    def choice_logprobs(self, pair: QAPair) -> list[float]:
        """log p(choice | question) of every choice: what `hardest` ranks wrong answers by."""
        stem, choices = self.prompts.choices(pair)
        rows = [self._ids(stem + choice) for choice in choices]
        stem_ids = self._ids(stem)
        start = min(num_common(stem_ids, row) for row in rows)
        shared = rows[0][: start - 1]
        self.cache.forward_prefix(shared)
        scores = []
        for row in rows:
            own = row[len(shared) :]
            self.cache.reserve(len(own))
            logits_1KV = self.cache.forward([own], [0], [0], keep=len(own))
            logp_KV = logits_1KV[0, :-1].float().log_softmax(-1)
            target_K1 = torch.tensor(own[1:], device=logp_KV.device)[:, None]
            scores.append(logp_KV.gather(-1, target_K1).sum().item())
        return scores

    def _decode(self, shared_ids: Sequence[int], pairs: list[Pair]) -> Iterable[Pair]:
        """Decode all pairs that start with `shared_ids`; yields each as it finishes."""
        num_shared = min([len(shared_ids), *(len(b) - 1 for p in pairs for b in p.branches)])
        num_shared = min([num_shared, *(num_common(shared_ids, b) for p in pairs for b in p.branches)])
        for pair in pairs:
            pair.branches = [branch[num_shared:] for branch in pair.branches]
        max_own = max(len(b) for p in pairs for b in p.branches) + self.config.decoding.max_new_tokens
        self.cache.reserve(max_own)
        self.cache.forward_prefix(list(shared_ids[:num_shared]))
        waiting, active = deque(pairs), list[Pair]()
        max_pairs = self.config.max_pairs
        while waiting or active:
            num_free = max_pairs - len(active)
            if waiting and (not active or num_free >= max(1, max_pairs // 8)):
                admitted = [waiting.popleft() for _ in range(min(num_free, len(waiting)))]
                logits_BV = self._prefill(admitted, first_slot=len(active) * self.num_branches)
                self._append(admitted, logits_BV)
                active += admitted
            else:
                self._append(active, self._step(active))
            yield from self._retire(active)

    def _prefill(self, pairs: list[Pair], *, first_slot: int) -> torch.Tensor:
        """Fill the slots of new pairs; returns the logits `(rows, V)` after each branch's prompt."""
        num_rows = len(pairs) * self.num_branches
        slots = list(range(first_slot, first_slot + num_rows))
        commons = [0] * len(pairs)
        if self.num_branches == 2:
            commons = [min(num_common(*p.branches), *(len(b) - 1 for b in p.branches)) for p in pairs]
            self._prefill_questions(pairs, commons, slots[::2])
        rows = [b[common:] for p, common in zip(pairs, commons, strict=True) for b in p.branches]
        lengths = [common for common in commons for _ in range(self.num_branches)]
        for pair in pairs:
            pair.lengths = [len(branch) for branch in pair.branches]
        return self.cache.forward(rows, slots, lengths)[:, -1]

    def _prefill_questions(self, pairs: list[Pair], commons: list[int], slots: list[int]) -> None:
        """What both branches share: computed in the grounded row, copied to the contrast row."""
        shared = [(p.branches[0][:c], slot) for p, c, slot in zip(pairs, commons, slots, strict=True) if c]
        if shared:
            rows, sources = [row for row, _ in shared], [slot for _, slot in shared]
            self.cache.forward(rows, sources, [0] * len(rows))
            self.cache.copy(sources, [slot + 1 for slot in sources], max(commons))

    def _step(self, active: list[Pair]) -> torch.Tensor:
        rows = [[pair.decoded.tokens[-1]] for pair in active for _ in range(self.num_branches)]
        lengths = [length for pair in active for length in pair.lengths]
        logits_BV = self.cache.forward(rows, list(range(len(rows))), lengths)[:, -1]
        for pair in active:
            pair.lengths = [length + 1 for length in pair.lengths]
        return logits_BV

    def _append(self, pairs: list[Pair], logits_BV: torch.Tensor) -> None:
        """Choose every pair's next token, or mark the pair as stopped."""
        # A model may have more places than its tokenizer has tokens; what is there was never trained.
        logits_BV = logits_BV[:, : self.num_tokens]
        device = logits_BV.device
        uniform_B = None
        if self.config.decoding.num_samples:
            seed_B = torch.tensor([pair.seed for pair in pairs], device=device)
            uniform_B = uniforms(
                seed_B, torch.tensor([len(pair.decoded.tokens) for pair in pairs], device=device)
            )
        weight_B = torch.tensor([pair.weight for pair in pairs], device=device)
        rows_B = torch.arange(0, len(logits_BV), self.num_branches, device=device)
        chosen_B, greedy_B = choose_from_rows(
            logits_BV,
            rows_B,
            rows_B + 1 if self.num_branches == 2 else None,
            self.decoding,
            weight_B=weight_B,
            uniform_B=uniform_B,
        )
        columns = [chosen_B.double()[:, None], greedy_B.double()[:, None]]
        if self.config.record_scores:
            logprobs_B4 = token_logprobs(
                logits_BV[:: self.num_branches],
                logits_BV[1::2] if self.num_branches == 2 else None,
                self.decoding,
                chosen_B=chosen_B,
                greedy_B=greedy_B,
            )
            columns.append(logprobs_B4.double())
        # One transfer to the host per step.
        rows = torch.cat(columns, dim=1).tolist()
        for pair, (chosen, greedy, *logprobs) in zip(pairs, rows, strict=True):
            self._take(pair.decoded, int(chosen), int(greedy), logprobs)

    def _take(self, decoded: Decoded, chosen: int, greedy: int, logprobs: list[float]) -> None:
        # Without contrast, a drawn stop is the plain teacher's own.
        is_drawn_alone = self.num_branches == 1 and not self.stops.is_stop(greedy)
        plain = chosen if is_drawn_alone else greedy
        decoded.stop_reason, decoded.last_text = self.stops.stop(chosen, plain)
        if decoded.stop_reason:
            return
        decoded.tokens.append(chosen)
        if logprobs:
            decoded.scores.append(TokenScores(greedy, *logprobs))
        if self.stops.has_text(decoded.tokens):
            decoded.stop_reason = "text"
        elif len(decoded.tokens) == self.config.decoding.max_new_tokens:
            decoded.stop_reason = "length"

    def _retire(self, active: list[Pair]) -> Iterable[Pair]:
        """Take finished pairs out; the last active pair moves into each gap, so slots stay a run."""
        position = 0
        while position < len(active):
            if not active[position].decoded.stop_reason:
                position += 1
                continue
            yield active[position]
            last = active.pop()
            if position < len(active):
                n = self.num_branches
                sources = [len(active) * n + branch for branch in range(n)]
                self.cache.copy(sources, [position * n + branch for branch in range(n)], max(last.lengths))
                active[position] = last

    def _ids(self, text: str) -> list[int]:
        return self.prompts.ids(text)

    def _too_long(self, branches: list[list[int]]) -> str:
        limit = getattr(self.model.config, "max_position_embeddings", None) or 1 << 30
        needed = max(map(len, branches)) + self.config.decoding.max_new_tokens
        if needed <= limit:
            return ""
        num_new = self.config.decoding.max_new_tokens
        return f"over-long: prompt and {num_new} new tokens need {needed} positions of {limit}"

    def _probe(self) -> list[int]:
        return (self._ids("Q: Is a probe long enough?\nA: The answer is yes. It is.") * 2)[:24]

    @torch.inference_mode()
    def _plain_logits(self) -> torch.Tensor:
        ids = torch.tensor([self._probe()], device=self.model.device)
        return self.model(input_ids=ids, use_cache=False).logits[0, -1].float()

    def _require_same(self, reference_V: torch.Tensor) -> None:
        """Refuse models whose attention is not what the slot cache computes (ALiBi, recurrent, ...)."""
        ids = self._probe()
        try:
            self.cache.reserve(len(ids))
            self.cache.forward_prefix(ids[:8])
            self.cache.forward([ids[8:15], ids[8:12]], [0, 1], [0, 0])
            logits_RV = self.cache.forward([ids[15:], ids[12:]], [0, 1], [7, 4])[:, -1].float()
            error = (logits_RV - reference_V).abs().max().item() / reference_V.abs().max().item()
        except (TypeError, AttributeError, RuntimeError, LookupError, ValueError) as problem:
            raise self._unsupported(f"{type(problem).__name__}: {problem}") from problem
        # Quantised layers may round what they read, by the largest of all rows of a batch.
        is_exact = self.model.dtype == torch.float32 and not getattr(self.model, "is_quantized", False)
        if not error < (1e-3 if is_exact else 0.1):
            raise self._unsupported(f"logits differ by {error:.1%} from the model's own")

    def _unsupported(self, detail: str) -> ConfigError:
        return ConfigError(
            f"teacher.model '{self.config.model}' ({self.model.config.model_type}): its attention cannot be "
            f"batched in slots ({detail}). teacher.engine=vllm may serve it; else choose one with standard "
            "attention (docs/reference/models.md)"
        )
