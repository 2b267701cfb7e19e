"""Keeps the two engine requests of a pair in lock-step: admission, detection of splits, repair.

Knows no engine and no model, only rows that emit one token per engine step. The guarantee: a pair's
token counts only when both its rows emitted it in the same step. As long as that was so for every
earlier token, both rows had the same length in that step, so the engine's processor coupled them. A
step in which one row emits alone (its partner was still being prefilled, was preempted, or came one step
later) is a split; what was emitted then is thrown away. Repair: the row that is behind runs on until it
emits, which leaves the prompts of both in the prefix cache; then both are taken back and submitted
again as a continuation of the tokens they have in common.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from cotray.teacher.block_budget import BlockBudget
from cotray.teacher.contrastive import StopTokens, TokenScores
from cotray.teacher.rationale_writer import Decoded

MAX_SPLITS_WITHOUT_PROGRESS = 16


@dataclass
class Pair:
    """One draw to decode: two branches, or one for a method without contrast."""

    branches: list[list[int]]
    """Prompt token ids: grounded, contrast."""
    max_new_tokens: int
    weight: float
    seed: int
    decoded: Decoded = field(default_factory=Decoded)
    unpaired_tokens: int = 0
    """Tokens of `decoded` that the two rows emitted in different steps; 0 unless cotray is wrong."""
    # State of the current attempt.
    row_ids: tuple[str, ...] = ()
    num_before: int = 0
    behind: str = ""
    num_fruitless: int = 0

    @property
    def prompts(self) -> list[list[int]]:
        """What the engine has to continue: the branches with the tokens decoded so far."""
        return [branch + self.decoded.tokens for branch in self.branches]

    @property
    def num_left(self) -> int:
        return self.max_new_tokens - len(self.decoded.tokens)


@dataclass(frozen=True)
class Row:
    """One engine request. `position` is how many tokens of the rationale its prompt already holds."""

    row_id: str
    pair: str
    branch: int
    num_branches: int
    prompt: list[int]
    max_new_tokens: int
    weight: float
    seed: int
    position: int


@dataclass(frozen=True)
class Emission:
    """What one row emitted in one step. `evidence`: greedy token, log p of the token, log p of greedy."""

    row_id: str
    tokens: Sequence[int]
    is_finished: bool
    evidence: tuple[int, float, float] | None = None
    error: str = ""


class Refused(Exception):
    """The engine will not take a row; the message says why."""


class Engine(Protocol):
    """`add` raises Refused; `step` returns what all rows emitted in one and the same engine step; between
    `pause` and `resume` no step begins."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def add(self, row: Row) -> None: ...

    def abort(self, row_ids: Sequence[str]) -> None: ...

    def step(self) -> Sequence[Emission]: ...


@dataclass(frozen=True)
class Limits:
    """Of the engine: rows and prompt tokens in one step, positions of one row, and its KV blocks."""

    max_rows: int
    max_tokens_per_step: int
    max_length: int
    num_blocks: int
    block_size: int


class Lockstep:
    """Not safe for concurrent calls: one thread submits and advances."""

    def __init__(self, engine: Engine, limits: Limits, stops: StopTokens) -> None:
        self.engine = engine
        self.limits = limits
        self.stops = stops
        self.blocks = BlockBudget(limits.num_blocks, limits.block_size)
        self.waiting: deque[Pair] = deque()
        self._pair_of: dict[str, Pair] = {}
        self._steps_of: dict[str, list[int]] = {}
        self._prefilling: dict[int, int] = {}
        self._num_attempts = 0
        self._num_steps = 0
        self._done: list[Pair] = []

    def submit(self, pairs: Iterable[Pair]) -> None:
        self.waiting.extend(pairs)

    @property
    def is_idle(self) -> bool:
        return not self.waiting and not self._pair_of

    def advance(self) -> list[Pair]:
        """Admit what fits, let the engine take one step, and return the pairs that are done by it."""
        self._admit()
        if self._pair_of:
            self._take(self.engine.step())
        done, self._done = self._done, []
        return done

    def _admit(self) -> None:
        # An idle engine would start on the first row before the second one has arrived. A busy one
        # takes in what arrived during a step, mostly both at once.
        if self.waiting and not self._pair_of:
            self.engine.pause()
            self._admit_waiting()
            self.engine.resume()
        else:
            self._admit_waiting()

    def _admit_waiting(self) -> None:
        while self.waiting:
            pair = self.waiting[0]
            error = self._impossible(pair)
            if not error and not self._fits(pair):
                return
            self.waiting.popleft()
            if error:
                self._fail(pair, error)
            else:
                self._start(pair)

    def _impossible(self, pair: Pair) -> str:
        needed = max(len(branch) for branch in pair.branches) + pair.max_new_tokens
        if needed > self.limits.max_length:
            return (
                f"over-long: prompt and {pair.max_new_tokens} new tokens need {needed} positions "
                f"of {self.limits.max_length}"
            )
        num_blocks = self.blocks.worst_case(pair.prompts, pair.num_left)
        if num_blocks > self.limits.num_blocks:
            return (
                f"over-long: the pair needs {num_blocks} KV blocks of {self.limits.num_blocks}; give the "
                "engine more memory (teacher.engine_args.kv_cache_memory_bytes or gpu_memory_utilization)"
            )
        return ""

    def _fits(self, pair: Pair) -> bool:
        """Whether the pair can start without pushing others, or its own halves, into different steps."""
        if not self._pair_of:
            return True
        num_rows = len(self._pair_of) + len(pair.branches)
        if num_rows > self.limits.max_rows:
            return False
        if not self.blocks.fits(pair.prompts, pair.num_left):
            return False
        # A prompt too long for any step cannot be helped; it goes alone, and is repaired.
        free = self.limits.max_tokens_per_step - num_rows - sum(self._prefilling.values())
        return not self._prefilling or self._num_uncached(pair) <= free

    def _num_uncached(self, pair: Pair) -> int:
        """Prompt tokens that the engine has to compute, at most, before the pair's first step."""
        if pair.decoded.splits:  # all but the last block of each prompt is in the prefix cache
            return len(pair.branches) * self.limits.block_size
        return self.blocks.num_uncached(pair.prompts)

    def _start(self, pair: Pair) -> None:
        self._num_attempts += 1
        prompts = pair.prompts
        name = str(self._num_attempts)
        self._prefilling[id(pair)] = self._num_uncached(pair)
        self.blocks.take(id(pair), prompts, pair.num_left)
        pair.row_ids = tuple(f"{name}-{branch}" for branch in range(len(prompts)))
        pair.num_before, pair.behind = len(pair.decoded.tokens), ""
        for branch, (row_id, prompt) in enumerate(zip(pair.row_ids, prompts, strict=True)):
            row = Row(
                row_id, name, branch, len(prompts), prompt,
                pair.num_left, pair.weight, pair.seed, pair.num_before,
            )  # fmt: skip
            try:
                self.engine.add(row)
            except Refused as problem:
                self._release(pair)
                return self._fail(pair, f"refused by the engine: {problem}")
            self._pair_of[row_id] = pair
            self._steps_of[row_id] = []

    def _take(self, emissions: Sequence[Emission]) -> None:
        self._num_steps += 1
        touched: dict[int, dict[str, Emission]] = defaultdict(dict)
        pairs: dict[int, Pair] = {}
        for emission in emissions:
            pair = self._pair_of.get(emission.row_id)
            if pair is not None and (emission.tokens or emission.error or emission.is_finished):
                self._steps_of[emission.row_id].append(self._num_steps)
                pairs[id(pair)] = pair
                touched[id(pair)][emission.row_id] = emission
        for key, pair in pairs.items():
            self._prefilling.pop(key, None)
            self._take_pair(pair, touched[key])

    def _take_pair(self, pair: Pair, emitted: dict[str, Emission]) -> None:
        error = next((emission.error for emission in emitted.values() if emission.error), "")
        if error:
            self._release(pair)
            self._fail(pair, f"the engine gave the request up: {error}")
        elif pair.behind:
            if pair.behind in emitted:
                self._release(pair)
                self.waiting.appendleft(pair)
        elif self._is_paired(pair, emitted):
            self._accept(pair, [emitted[row_id] for row_id in pair.row_ids])
        else:
            self._split(pair, emitted)

    def _is_paired(self, pair: Pair, emitted: dict[str, Emission]) -> bool:
        """Both rows emitted exactly one token, and the same one unless it ends the rationale."""
        if len(emitted) < len(pair.row_ids) or any(len(e.tokens) != 1 for e in emitted.values()):
            return False
        grounded, *others = (emitted[row_id].tokens[0] for row_id in pair.row_ids)
        return self.stops.is_stop(grounded) or all(token == grounded for token in others)

    def _accept(self, pair: Pair, rows: list[Emission]) -> None:
        decoded, token = pair.decoded, rows[0].tokens[0]
        is_same = all(row.tokens[0] == token for row in rows)
        reason, text = self.stops.stop(token, token)
        if reason:
            # The processor lets the contrast row end differently where contrast itself chose to stop.
            decoded.stop_reason = reason if is_same or reason == "eos" else "contrast_stop"
            decoded.last_text = text
        else:
            decoded.tokens.append(token)
            pair.num_fruitless = 0
            if rows[0].evidence is not None and rows[-1].evidence is not None:
                greedy, grounded, greedy_grounded = rows[0].evidence
                _, contrast, greedy_contrast = rows[-1].evidence
                decoded.scores.append(
                    TokenScores(greedy, grounded, contrast, greedy_grounded, greedy_contrast)
                )
            if self.stops.has_text(decoded.tokens):
                decoded.stop_reason = "text"
            elif pair.num_left == 0:
                decoded.stop_reason = "length"
        if decoded.stop_reason:
            self._release(pair, finished={row.row_id for row in rows if row.is_finished})
            self._done.append(pair)

    def _split(self, pair: Pair, emitted: dict[str, Emission]) -> None:
        pair.decoded.splits += 1
        pair.num_fruitless += 1
        if pair.num_fruitless > MAX_SPLITS_WITHOUT_PROGRESS:
            self._release(pair)
            return self._fail(
                pair,
                f"its branches lost lock-step {MAX_SPLITS_WITHOUT_PROGRESS} times in a row at token "
                f"{len(pair.decoded.tokens)}; raise teacher.engine_args.max_num_batched_tokens or KV memory",
            )
        behind = [row_id for row_id in pair.row_ids if row_id not in emitted]
        if not behind:
            self._release(pair)
            self.waiting.appendleft(pair)
            return
        pair.behind = behind[0]
        ahead = [row_id for row_id, emission in emitted.items() if not emission.is_finished]
        self.engine.abort(ahead)

    def _release(self, pair: Pair, *, finished: Iterable[str] = ()) -> None:
        """Take the pair's rows back from the engine, and audit the tokens of this attempt."""
        live = [row_id for row_id in pair.row_ids if row_id in self._pair_of and row_id not in finished]
        self.engine.abort(live)
        num_accepted = len(pair.decoded.tokens) - pair.num_before
        steps = [self._steps_of.get(row_id, [])[:num_accepted] for row_id in pair.row_ids]
        pair.unpaired_tokens += sum(len(set(arrived)) > 1 for arrived in zip(*steps, strict=False))
        for row_id in pair.row_ids:
            self._pair_of.pop(row_id, None)
            self._steps_of.pop(row_id, None)
        self._prefilling.pop(id(pair), None)
        self.blocks.give(id(pair))

    def _fail(self, pair: Pair, error: str) -> None:
        pair.decoded.error = error
        self._done.append(pair)
