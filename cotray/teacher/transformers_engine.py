"""The transformers teacher: batched contrastive decoding, exact in float32, on any device.

`generate` reads like the algorithm: admit waiting pairs into free slots, take one step for all pairs,
retire the finished ones. Both branches of a pair are neighbouring rows of one forward pass; what they
share is computed once: the demonstrations per task, the question per pair.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch

from cotray.config import TeacherConfig
from cotray.errors import ConfigError
from cotray.models import load_for_inference
from cotray.prompts.teacher import render_choices, render_request
from cotray.records import QAPair, Rationale, TeacherRequest
from cotray.teacher.contrastive import NextTokens, StopTokens, next_tokens
from cotray.teacher.slots import SlotCache

SMALL_TEACHER_PARAMETERS = 1e9
PLAUSIBILITY_OF_SMALL_TEACHERS = 0.1


@dataclass
class _Pair:
    """One request being decoded; `lengths` counts the own (not shared) tokens of each branch."""

    index: int
    branches: list[list[int]]
    lengths: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    greedy: list[int] = field(default_factory=list)
    logprobs: list[tuple[float, float]] = field(default_factory=list)
    stop_reason: str = ""
    last_text: str = ""


class TransformersTeacher:
    """A causal language model that explains given answers. Not safe for concurrent calls."""

    def __init__(self, config: TeacherConfig, *, method: str) -> None:
        self.config = config
        self.method = method
        model, self.tokenizer = load_for_inference(config.model, revision=config.revision, dtype=config.dtype)
        if model.config.is_encoder_decoder:
            raise ConfigError(
                f"teacher.model '{config.model}': engine transformers needs a decoder-only model"
            )
        self.model = model
        self.stops = stop_tokens(self.tokenizer)
        self.num_branches = 1 if method == "greedy" else 2
        reference = self._plain_logits()
        self.cache = SlotCache(model, num_slots=config.max_pairs * 2)
        self._require_same(reference)
        is_small = model.num_parameters() < SMALL_TEACHER_PARAMETERS
        auto = PLAUSIBILITY_OF_SMALL_TEACHERS if is_small else 0.0
        plausibility = config.decoding.plausibility
        self.plausibility = auto if plausibility == "auto" else plausibility

    def generate(
        self,
        requests: Sequence[TeacherRequest],
        *,
        weights: Sequence[float] | None = None,
        on_finished: Callable[[int], None] = lambda num_tokens: None,
    ) -> list[Rationale]:
        """One Rationale per request, in their order; a request that cannot be served has `error` set.

        `weights` overrides the configured contrast weight per request.
        """
        weights = weights or [self.config.decoding.weight] * len(requests)
        groups: dict[tuple[int, ...], list[_Pair]] = defaultdict(list)
        results: dict[int, Rationale] = {}
        for index, request in enumerate(requests):
            prompt = render_request(request, num_demonstrations=self.config.num_demonstrations)
            texts = [prompt.grounded, prompt.contrast][: self.num_branches]
            branches = [self._ids(text) for text in texts]
            too_long = self._too_long(branches)
            if too_long:
                results[index] = self._result(request, error=too_long)
                continue
            groups[tuple(self._ids(prompt.shared))].append(_Pair(index, branches))
        for shared_ids, pairs in groups.items():
            for pair in self._decode(shared_ids, pairs, weights):
                results[pair.index] = self._finish(requests[pair.index], pair)
                on_finished(len(pair.tokens))
        return [results[index] for index in range(len(requests))]

    def choice_logprobs(self, pair: QAPair) -> list[float]:
        """log p(choice | question) of every choice: what `hardest` ranks wrong answers by."""
        stem, choices = render_choices(pair, num_demonstrations=self.config.num_demonstrations)
        rows = [self._ids(stem + choice) for choice in choices]
        stem_ids = self._ids(stem)
        num_common = min(_num_common(stem_ids, row) for row in rows)
        shared = rows[0][: num_common - 1]
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

    def _decode(
        self, shared_ids: Sequence[int], pairs: list[_Pair], weights: Sequence[float]
    ) -> Iterable[_Pair]:
        """Decode all pairs that start with `shared_ids`; yields each as it finishes."""
        num_shared = min([len(shared_ids), *(len(b) - 1 for p in pairs for b in p.branches)])
        num_shared = min([num_shared, *(_num_common(shared_ids, b) for p in pairs for b in p.branches)])
        for pair in pairs:
            pair.branches = [branch[num_shared:] for branch in pair.branches]
        max_own = max(len(b) for p in pairs for b in p.branches) + self.config.decoding.max_new_tokens
        self.cache.reserve(max_own)
        self.cache.forward_prefix(list(shared_ids[:num_shared]))
        waiting, active = deque(pairs), list[_Pair]()
        max_pairs = self.config.max_pairs
        while waiting or active:
            num_free = max_pairs - len(active)
            if waiting and (not active or num_free >= max(1, max_pairs // 8)):
                admitted = [waiting.popleft() for _ in range(min(num_free, len(waiting)))]
                logits_BV = self._prefill(admitted, first_slot=len(active) * self.num_branches)
                self._append(admitted, logits_BV, weights)
                active += admitted
            else:
                self._append(active, self._step(active), weights)
            yield from self._retire(active)

    def _prefill(self, pairs: list[_Pair], *, first_slot: int) -> torch.Tensor:
        """Fill the slots of new pairs; returns the logits `(rows, V)` after each branch's prompt."""
        num_rows = len(pairs) * self.num_branches
        slots = list(range(first_slot, first_slot + num_rows))
        commons = [0] * len(pairs)
        if self.num_branches == 2:
            commons = [min(_num_common(*p.branches), *(len(b) - 1 for b in p.branches)) for p in pairs]
            self._prefill_questions(pairs, commons, slots[::2])
        rows = [b[common:] for p, common in zip(pairs, commons, strict=True) for b in p.branches]
        lengths = [common for common in commons for _ in range(self.num_branches)]
        for pair in pairs:
            pair.lengths = [len(branch) for branch in pair.branches]
        return self.cache.forward(rows, slots, lengths)[:, -1]

    def _prefill_questions(self, pairs: list[_Pair], commons: list[int], slots: list[int]) -> None:
        """What both branches share: computed in the grounded row, copied to the contrast row."""
        shared = [(p.branches[0][:c], slot) for p, c, slot in zip(pairs, commons, slots, strict=True) if c]
        if shared:
            rows, sources = [row for row, _ in shared], [slot for _, slot in shared]
            self.cache.forward(rows, sources, [0] * len(rows))
            self.cache.copy(sources, [slot + 1 for slot in sources], max(commons))

    def _step(self, active: list[_Pair]) -> torch.Tensor:
        rows = [[pair.tokens[-1]] for pair in active for _ in range(self.num_branches)]
        lengths = [length for pair in active for length in pair.lengths]
        logits_BV = self.cache.forward(rows, list(range(len(rows))), lengths)[:, -1]
        for pair in active:
            pair.lengths = [length + 1 for length in pair.lengths]
        return logits_BV

    def _append(self, pairs: list[_Pair], logits_BV: torch.Tensor, weights: Sequence[float]) -> None:
        """Choose every pair's next token, or mark the pair as stopped."""
        decoding = self.config.decoding
        step = next_tokens(
            logits_BV[:: self.num_branches],
            logits_BV[1::2] if self.num_branches == 2 else None,
            weight=torch.tensor([weights[pair.index] for pair in pairs], device=logits_BV.device),
            plausibility=self.plausibility,
            temperature=decoding.temperature,
            temperature_on=decoding.temperature_on,
        )
        for pair, chosen, greedy, grounded, contrast in zip(pairs, *_to_lists(step), strict=True):
            pair.stop_reason, pair.last_text = self.stops.stop(chosen, greedy)
            if pair.stop_reason:
                continue
            pair.tokens.append(chosen)
            pair.greedy.append(greedy)
            pair.logprobs.append((grounded, contrast))
            if len(pair.tokens) == decoding.max_new_tokens:
                pair.stop_reason = "length"

    def _retire(self, active: list[_Pair]) -> Iterable[_Pair]:
        """Take finished pairs out; the last active pair moves into each gap, so slots stay a run."""
        position = 0
        while position < len(active):
            if not active[position].stop_reason:
                position += 1
                continue
            yield active[position]
            last = active.pop()
            if position < len(active):
                n = self.num_branches
                sources = [len(active) * n + branch for branch in range(n)]
                self.cache.copy(sources, [position * n + branch for branch in range(n)], max(last.lengths))
                active[position] = last

    def _finish(self, request: TeacherRequest, pair: _Pair) -> Rationale:
        text = (str(self.tokenizer.decode(pair.tokens, skip_special_tokens=True)) + pair.last_text).strip()
        result = self._result(
            request,
            rationale=text,
            num_tokens=len(pair.tokens),
            stop_reason=pair.stop_reason,
            error="" if text else "empty rationale: the teacher stopped at once",
        )
        if not self.config.record_scores:
            return result
        return replace(
            result,
            tokens=tuple(self.tokenizer.decode([token]) for token in pair.tokens),
            greedy_tokens=tuple(self.tokenizer.decode([token]) for token in pair.greedy),
            grounded_logprobs=tuple(grounded for grounded, _ in pair.logprobs),
            contrast_logprobs=tuple(contrast for _, contrast in pair.logprobs),
        )

    def _result(self, request: TeacherRequest, **fields: object) -> Rationale:
        row = request.to_row() | {"method": self.method, "teacher": self.config.model} | fields
        return Rationale.from_row(row)

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text).input_ids

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
        except (TypeError, AttributeError, RuntimeError, KeyError, ValueError) as problem:
            raise self._unsupported(f"{type(problem).__name__}: {problem}") from problem
        if not error < (1e-3 if self.model.dtype == torch.float32 else 0.1):
            raise self._unsupported(f"logits differ by {error:.1%} from the model's own")

    def _unsupported(self, detail: str) -> ConfigError:
        return ConfigError(
            f"teacher.model '{self.config.model}' ({self.model.config.model_type}): its attention cannot be "
            f"batched in slots ({detail}); choose one with standard attention (Llama, Qwen, GPT-NeoX, OPT)"
        )


def stop_tokens(tokenizer) -> StopTokens:
    """Every token of the vocabulary whose decoded text has a line break, and the end-of-sequence token."""
    ids = list(range(len(tokenizer)))
    texts = tokenizer.batch_decode([[token] for token in ids])
    breaks = {token: text.split("\n")[0] for token, text in zip(ids, texts, strict=True) if "\n" in text}
    return StopTokens(frozenset({tokenizer.eos_token_id} - {None}), breaks)


def _num_common(first: Sequence[int], second: Sequence[int]) -> int:
    for index, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return index
    return min(len(first), len(second))


def _to_lists(step: NextTokens) -> tuple[list, list, list, list]:
    """One transfer to the host per step."""
    stacked = torch.stack(
        [
            step.chosen_B.double(),
            step.greedy_B.double(),
            step.grounded_logp_B.double(),
            step.contrast_logp_B.double(),
        ]
    ).tolist()
    return [int(t) for t in stacked[0]], [int(t) for t in stacked[1]], stacked[2], stacked[3]
