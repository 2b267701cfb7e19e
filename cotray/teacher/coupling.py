"""Couples the rows of an engine's batch: which rows form pairs, and what both rows of a pair shall emit.

Knows logits and row numbers, and no engine: vllm_processors.py has the doors to vLLM's batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    """The request in one place of the engine."""

    pair: str
    branch: int
    num_branches: int
    weight: float
    seed: int
    position: int
    """How many tokens of the rationale its prompt already holds."""
    output: Sequence[int] = ()
    """The engine's running list of this request's output tokens, of which only the length is used. Not
    needed where the engine gives `Coupling.apply` the lengths."""


class Coupling:
    """Chooses one token for both rows of every pair in the batch, on the device.

    A request has a place: a row of the batch, or, in an engine that reorders its rows, a number that it
    keeps. Work on the host grows with the places that were filled, emptied or moved, and with the rows in
    steps that order them anew; without such changes `apply` only launches device operations. Where rows
    are sampled and the engine does not give their lengths, it also reads one length per pair.
    Rows whose partner is not in the batch are left alone: what they emit is thrown away by Lockstep.
    """

    def __init__(self, settings: CouplingSettings, *, num_places: int, device: torch.device) -> None:
        self.settings = settings
        self.device = device
        self._slots: dict[int, Slot] = {}
        self._places_of: dict[str, dict[int, int]] = {}
        self._contrast_of = np.full(num_places, -1, dtype=np.int64)
        """Of every grounded place whose pair is complete: the contrast place (itself for a single one)."""
        self._weight = np.zeros(num_places, dtype=np.float32)
        self._groups: list[_Group] = []
        self._tables: tuple[torch.Tensor, torch.Tensor] | None = None

    def apply(self, logits: torch.Tensor, num_outputs_R: torch.Tensor | None = None) -> None:
        """Leave every coupled row of `logits` (R, V) no choice but its pair's token, in place.

        `num_outputs_R`: how many tokens each row's request has emitted. Rows of a pair that differ in it, as
        one of them is still being prefilled, are left alone. None where the engine does not say.
        """
        for group in self._groups:
            self._decode(logits, group, num_outputs_R)

    def move(self, source: int, target: int, *, is_swap: bool) -> None:
        """What was at `source` is now at `target`, and the other way round in a swap."""
        moved, replaced = self._slots.get(source), self._slots.get(target)
        self.put(source, None)
        self.put(target, moved)
        if is_swap:
            self.put(source, replaced)

    def put(self, index: int, slot: Slot | None) -> None:
        """The place `index` now holds `slot`, or nothing of cotray's. A request that comes back, after the
        engine took it out for want of memory, leaves the place that it had before."""
        old = self._slots.pop(index, None)
        if old is not None:
            places = self._places_of[old.pair]
            self._contrast_of[places.get(0, index)] = -1
            del places[old.branch]
            if not places:
                del self._places_of[old.pair]
        if slot is not None:
            before = self._places_of.get(slot.pair, {}).get(slot.branch)
            if before is not None:
                self.put(before, None)
            self._slots[index] = slot
            places = self._places_of.setdefault(slot.pair, {})
            places[slot.branch] = index
            if len(places) == slot.num_branches:
                self._contrast_of[places[0]] = places[slot.num_branches - 1]
                self._weight[places[0]] = self._slots[places[0]].weight

    def regroup(self, row_of: np.ndarray | None = None) -> None:
        """To be called after the last `put` or `move` of a step.

        `row_of`: the row of the batch in which each place is, -1 if in none. None: places are rows.
        """
        grounded = np.flatnonzero(self._contrast_of >= 0)
        contrast = self._contrast_of[grounded]
        if row_of is not None:
            is_there = (row_of[grounded] >= 0) & (row_of[contrast] >= 0)
            grounded, contrast = grounded[is_there], contrast[is_there]
        is_pair = grounded != contrast
        self._groups = []
        for chosen, has_contrast in ((is_pair, True), (~is_pair, False)):
            if chosen.any():
                self._groups.append(self._group(grounded[chosen], contrast[chosen], row_of, has_contrast))

    def _group(
        self, grounded: np.ndarray, contrast: np.ndarray, row_of: np.ndarray | None, has_contrast: bool
    ) -> _Group:
        slots = [self._slots[place] for place in grounded] if self.settings.is_sampling else []
        starts = np.array([(slot.seed, slot.position) for slot in slots], dtype=np.int64).reshape(-1, 2)
        rows = (grounded, contrast) if row_of is None else (row_of[grounded], row_of[contrast])
        arrays = (*rows, self._weight[grounded], starts)
        grounded_B, contrast_B, weight_B, starts_B2 = (
            torch.from_numpy(array).to(self.device, non_blocking=True) for array in arrays
        )
        return _Group(grounded_B, contrast_B, weight_B, starts_B2, slots, has_contrast)

    def _uniforms(self, group: _Group, num_outputs_R: torch.Tensor | None) -> torch.Tensor:
        if num_outputs_R is None:
            lengths = torch.tensor([len(slot.output) for slot in group.slots])
            num_outputs_B = lengths.to(self.device, non_blocking=True)
        else:
            num_outputs_B = num_outputs_R[group.grounded_B]
        seeds_B, positions_B = group.starts_B2.unbind(-1)
        return uniforms(seeds_B, positions_B + num_outputs_B)

    def _decode(self, logits: torch.Tensor, group: _Group, num_outputs_R: torch.Tensor | None) -> None:
        grounded_B, contrast_B = group.grounded_B, group.contrast_B
        is_level_B = None
        if num_outputs_R is not None:
            is_level_B = num_outputs_R[grounded_B] == num_outputs_R[contrast_B]
        known = logits[:, : self.settings.num_tokens]
        chosen_B, greedy_B = choose_from_rows(
            known,
            grounded_B,
            contrast_B if group.has_contrast else None,
            self.settings.decoding,
            weight_B=group.weight_B,
            uniform_B=self._uniforms(group, num_outputs_R) if self.settings.is_sampling else None,
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
            logp_B, contrast_logp_B, greedy_logp_B, contrast_greedy_logp_B = logprobs_B4.unbind(-1)
            write_evidence(logits, grounded_B, emitted_B, greedy_B, logp_B, greedy_logp_B, is_level_B)
            if group.has_contrast:
                write_evidence(
                    logits,
                    contrast_B,
                    partner_B,
                    greedy_B,
                    contrast_logp_B,
                    contrast_greedy_logp_B,
                    is_level_B,
                )
        else:
            _force(logits, contrast_B, partner_B, is_level_B)
            _force(logits, grounded_B, emitted_B, is_level_B)

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
    """Rows decoded alike in every step until the batch changes; tensors on the device."""

    grounded_B: torch.Tensor
    contrast_B: torch.Tensor
    weight_B: torch.Tensor
    starts_B2: torch.Tensor
    """Seed and position; of no row, and `slots` empty, where nothing is sampled."""
    slots: list[Slot]
    has_contrast: bool


def _force(
    logits: torch.Tensor, rows_B: torch.Tensor, tokens_B: torch.Tensor, is_level_B: torch.Tensor | None
) -> None:
    forced: float | torch.Tensor = _FORCED
    if is_level_B is not None:
        forced = torch.where(is_level_B, _FORCED, logits[rows_B, tokens_B])
    logits[rows_B, tokens_B] = forced


def write_evidence(
    logits: torch.Tensor,
    rows_B: torch.Tensor,
    emitted_B: torch.Tensor,
    greedy_B: torch.Tensor,
    logp_B: torch.Tensor,
    greedy_logp_B: torch.Tensor,
    is_level_B: torch.Tensor | None = None,
) -> None:
    """Replace the rows by what the engine shall emit and report, given that it reports the two largest
    entries. Log-probabilities are <= 0; the emitted token's is moved into (0, 1] by 1 / (1 - log p), so that
    it stays the largest. Rows that are not level stay as they are."""
    before_BV = None if is_level_B is None else logits[rows_B]
    logits[rows_B] = -torch.inf
    logits[rows_B, greedy_B] = greedy_logp_B.clamp(-1e30, 0)
    logits[rows_B, emitted_B] = 1 / (1 - logp_B.clamp(-1e30, 0))
    if is_level_B is not None and before_BV is not None:
        logits[rows_B] = torch.where(is_level_B[:, None], logits[rows_B], before_BV)


def read_evidence(emitted: int, top: Mapping[int, float]) -> tuple[int, float, float]:
    """Greedy token, log p of the emitted token, log p of the greedy one, from the row's largest entries."""
    logp = 1 - 1 / top[emitted]
    others = [(token, value) for token, value in top.items() if token != emitted and value > -np.inf]
    greedy, greedy_logp = others[0] if others else (emitted, logp)
    return greedy, logp, greedy_logp
