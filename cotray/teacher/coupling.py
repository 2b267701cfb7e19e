"""Couples the rows of an engine's batch: which rows form pairs, and what both rows of a pair shall emit.

Knows logits and row numbers, and no engine: `vllm_engine.PairedLogits` is the door to vLLM's batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from cotray.models.token_draws import uniforms
from cotray.teacher.contrastive import Decoding, choose_from_rows, token_logprobs

_FORCED = 1e30


@dataclass(frozen=True)
class CouplingSettings:
    """What all rows share; plain values, so that it travels to the engine's processes."""

    eos: tuple[int, ...]
    breaks: tuple[int, ...]
    """Tokens with a line break in their text."""
    decoding: Decoding = field(default_factory=Decoding)
    is_sampling: bool = False
    record_scores: bool = False
    num_tokens: int | None = None
    """Of the tokenizer, where the model has more: those beyond are never chosen."""


@dataclass
class Slot:
    """The request in one row of the batch."""

    pair: str
    branch: int
    num_branches: int
    weight: float
    seed: int
    position: int
    output: list[int]
    """The engine's running list of this request's output tokens; only its length is used."""


class Coupling:
    """Chooses one token for both rows of every pair in the batch, on the device.

    Work on the host grows with the rows that came, went or moved; without such changes `apply` only
    launches device operations. Where rows are sampled, it also reads one length per pair.
    Rows whose partner is not in the batch are left alone: what they emit is thrown away by Lockstep.
    """

    def __init__(self, settings: CouplingSettings, *, max_rows: int, device: torch.device) -> None:
        self.settings = settings
        self.device = device
        self._slots: dict[int, Slot] = {}
        self._rows_of: dict[str, dict[int, int]] = {}
        self._contrast_of = np.full(max_rows, -1, dtype=np.int64)
        """Of every grounded row that can be decoded now: its contrast row (itself for a single row)."""
        self._weight = np.zeros(max_rows, dtype=np.float32)
        self._groups: list[_Group] = []
        self._tables: tuple[torch.Tensor, torch.Tensor] | None = None

    def apply(self, logits: torch.Tensor) -> None:
        """Leave every coupled row of `logits` (rows, V) no choice but its pair's token, in place."""
        for group in self._groups:
            self._decode(logits, group)

    def move(self, source: int, target: int, *, is_swap: bool) -> None:
        """Row `source` becomes row `target`, and the other way round in a swap."""
        moved, replaced = self._slots.get(source), self._slots.get(target)
        self.put(source, None)
        self.put(target, moved)
        if is_swap:
            self.put(source, replaced)

    def put(self, index: int, slot: Slot | None) -> None:
        """The row `index` of the batch now holds `slot`, or nothing of cotray's."""
        old = self._slots.pop(index, None)
        if old is not None:
            rows = self._rows_of[old.pair]
            self._contrast_of[rows.get(0, index)] = -1
            if rows.get(old.branch) == index:
                del rows[old.branch]
            if not rows:
                del self._rows_of[old.pair]
        if slot is not None:
            self._slots[index] = slot
            rows = self._rows_of.setdefault(slot.pair, {})
            rows[slot.branch] = index
            if len(rows) == slot.num_branches:
                self._contrast_of[rows[0]] = rows[slot.num_branches - 1]
                self._weight[rows[0]] = self._slots[rows[0]].weight

    def regroup(self) -> None:
        """To be called after the last `put` or `move` of a step."""
        grounded = np.flatnonzero(self._contrast_of >= 0)
        contrast = self._contrast_of[grounded]
        is_pair = grounded != contrast
        self._groups = []
        for chosen, has_contrast in ((is_pair, True), (~is_pair, False)):
            if chosen.any():
                rows = grounded[chosen], contrast[chosen], self._weight[grounded[chosen]]
                slots = [self._slots[index] for index in rows[0]] if self.settings.is_sampling else []
                self._groups.append(
                    _Group.of(*rows, slots=slots, has_contrast=has_contrast, device=self.device)
                )

    def _uniforms(self, group: _Group) -> torch.Tensor:
        steps = [slot.position + len(slot.output) for slot in group.slots]
        seeds = [slot.seed for slot in group.slots]
        both = torch.tensor([seeds, steps]).to(self.device, non_blocking=True)
        return uniforms(both[0], both[1])

    def _decode(self, logits: torch.Tensor, group: _Group) -> None:
        grounded_B, contrast_B = group.grounded_B, group.contrast_B
        known = logits[:, : self.settings.num_tokens]
        chosen_B, greedy_B = choose_from_rows(
            known,
            grounded_B,
            contrast_B if group.has_contrast else None,
            self.settings.decoding,
            weight_B=group.weight_B,
            uniform_B=self._uniforms(group) if self.settings.is_sampling else None,
        )
        is_stop_V, is_break_V = self._stop_tables(logits.shape[-1])
        # The plain teacher's stop comes first; where contrast itself stops, only the grounded row says
        # how, and the contrast row ends with the end-of-sequence token (Lockstep reads the difference).
        is_greedy_stop_B = is_stop_V[greedy_B]
        emitted_B = torch.where(is_greedy_stop_B, greedy_B, chosen_B)
        is_contrast_stop_B = ~is_greedy_stop_B & is_break_V[chosen_B]
        partner_B = (
            torch.where(is_contrast_stop_B, self.settings.eos[0], emitted_B)
            if group.has_contrast
            else emitted_B
        )
        if self.settings.record_scores:
            logprobs_B4 = token_logprobs(
                known.index_select(0, grounded_B),
                known.index_select(0, contrast_B) if group.has_contrast else None,
                self.settings.decoding,
                chosen_B=chosen_B,
                greedy_B=greedy_B,
            )
            write_evidence(logits, grounded_B, emitted_B, greedy_B, logprobs_B4[:, 0], logprobs_B4[:, 2])
            if group.has_contrast:
                write_evidence(logits, contrast_B, partner_B, greedy_B, logprobs_B4[:, 1], logprobs_B4[:, 3])
        else:
            logits[contrast_B, partner_B] = _FORCED
            logits[grounded_B, emitted_B] = _FORCED

    def _stop_tables(self, vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Which tokens stop, and which of them by a line break: bool `(V,)`."""
        if self._tables is None:
            is_break_V = torch.zeros(vocabulary, dtype=torch.bool)
            is_break_V[list(self.settings.breaks)] = True
            is_stop_V = is_break_V.clone()
            is_stop_V[list(self.settings.eos)] = True
            self._tables = is_stop_V.to(self.device), is_break_V.to(self.device)
        return self._tables


@dataclass
class _Group:
    """Rows decoded alike in every step until the batch changes; `(B,)` tensors on the device."""

    grounded_B: torch.Tensor
    contrast_B: torch.Tensor
    weight_B: torch.Tensor
    slots: list[Slot]
    has_contrast: bool

    @classmethod
    def of(cls, grounded, contrast, weight, *, slots, has_contrast: bool, device: torch.device) -> _Group:
        on_device = (torch.from_numpy(a).to(device, non_blocking=True) for a in (grounded, contrast, weight))
        grounded_B, contrast_B, weight_B = on_device
        return cls(grounded_B, contrast_B, weight_B, slots, has_contrast)


def write_evidence(
    logits: torch.Tensor,
    rows_B: torch.Tensor,
    emitted_B: torch.Tensor,
    greedy_B: torch.Tensor,
    logp_B: torch.Tensor,
    greedy_logp_B: torch.Tensor,
) -> None:
    """Replace the rows by what the engine shall emit and report, given that it reports the two largest
    entries. Log-probabilities are <= 0; the emitted token's is moved into (0, 1] by 1 / (1 - log p), so that
    it stays the largest."""
    logits[rows_B] = -torch.inf
    logits[rows_B, greedy_B] = greedy_logp_B.clamp(-1e30, 0)
    logits[rows_B, emitted_B] = 1 / (1 - logp_B.clamp(-1e30, 0))


def read_evidence(emitted: int, top: Mapping[int, float]) -> tuple[int, float, float]:
    """Greedy token, log p of the emitted token, log p of the greedy one, from the row's largest entries."""
    logp = 1 - 1 / top[emitted]
    others = [(token, value) for token, value in top.items() if token != emitted and value > -np.inf]
    greedy, greedy_logp = others[0] if others else (emitted, logp)
    return greedy, logp, greedy_logp
