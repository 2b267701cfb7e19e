"""Lock-step against an engine that schedules as badly as a real one can: chunked prefill with a token
budget, preemption, and rows that start one step late. Its "model" is a hash, so right tokens are known."""

import random
from collections.abc import Sequence

import pytest

from cotray.teacher.block_budget import BlockBudget
from cotray.teacher.contrastive import StopTokens
from cotray.teacher.lockstep import Emission, Limits, Lockstep, Pair, Refused, Row

EOS, BREAK, FIRST_WORD, VOCABULARY = 0, 1, 2, 50
STOPS = StopTokens(eos=frozenset({EOS}), text_before_break={BREAK: "."})
BLOCK = 4


def next_token(branches: Sequence[Sequence[int]]) -> int:
    """What a coupled step chooses: a function of everything both rows have seen."""
    value = random.Random(str([list(b) for b in branches])).randrange(VOCABULARY)
    return value if value >= FIRST_WORD or sum(map(len, branches)) % 7 == 0 else FIRST_WORD


def expected(pair: Pair) -> tuple[list[int], str]:
    tokens: list[int] = []
    while len(tokens) < pair.max_new_tokens:
        token = next_token([branch + tokens for branch in pair.branches])
        if token in (EOS, BREAK):
            return tokens, {EOS: "eos", BREAK: "greedy_stop"}[token]
        tokens.append(token)
    return tokens, "length"


class RoughEngine:
    """Rows wait, are prefilled in chunks of a shared budget, run, and are preempted now and then."""

    def __init__(self, *, budget: int, seed: int = 0, late: float = 0.0, preempt: float = 0.0) -> None:
        self.budget, self.late, self.preempt = budget, late, preempt
        self.random = random.Random(seed)
        self.rows: dict[str, Row] = {}
        self.outputs: dict[str, list[int]] = {}
        self.computed: dict[str, int] = {}
        self.cache: set[tuple[int, ...]] = set()
        self.num_unpaired_emissions = 0

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def add(self, row: Row) -> None:
        if not row.prompt:
            raise Refused("an empty prompt")
        self.rows[row.row_id], self.outputs[row.row_id] = row, []
        self.computed[row.row_id] = self._cached(row.prompt)

    def abort(self, row_ids: Sequence[str]) -> None:
        for row_id in row_ids:
            self.rows.pop(row_id, None)

    def step(self) -> list[Emission]:
        budget, sampled, present = self.budget, [], []
        for row_id, row in list(self.rows.items()):
            text = row.prompt + self.outputs[row_id]
            if not self.outputs[row_id] and self.random.random() < self.late:
                continue
            if self.outputs[row_id] and self.random.random() < self.preempt:
                self.computed[row_id] = self._cached(text)
                continue
            num_tokens = min(budget, len(text) - self.computed[row_id])
            if num_tokens == 0:
                continue
            budget -= num_tokens
            self.computed[row_id] += num_tokens
            self.cache.add(tuple(text[: self.computed[row_id] // BLOCK * BLOCK]))
            present.append(row_id)
            if self.computed[row_id] == len(text):
                sampled.append(row_id)
        emissions = [self._emit(row_id, present, sampled) for row_id in sampled]
        for emission in emissions:
            if emission.is_finished:
                del self.rows[emission.row_id]
        return emissions

    def _emit(self, row_id: str, present: list[str], sampled: list[str]) -> Emission:
        """Coupled if the partner is in the batch, whatever state it is in: as a logits processor sees it."""
        row = self.rows[row_id]
        partners = [r for r in present if self.rows[r].pair == row.pair]
        texts = [self.rows[r].prompt + self.outputs[r][: len(self.outputs[row_id])] for r in sorted(partners)]
        is_paired = len([r for r in partners if r in sampled]) == row.num_branches
        self.num_unpaired_emissions += not is_paired
        token = next_token(texts if is_paired else [*texts, [999]])
        self.outputs[row_id] = [*self.outputs[row_id], token]
        is_finished = token in (EOS, BREAK) or len(self.outputs[row_id]) == row.max_new_tokens
        return Emission(row_id, [token], is_finished)

    def _cached(self, text: list[int]) -> int:
        return max(
            (len(c) for c in self.cache if tuple(text[: len(c)]) == c and len(c) < len(text)), default=0
        )


def make_pairs(count: int, *, seed: int = 0, longest: int = 40) -> list[Pair]:
    random_ = random.Random(seed)
    pairs = []
    for number in range(count):
        shared = [random_.randrange(100, 200) for _ in range(random_.randint(1, longest))]
        own = [[300 + number] * random_.randint(1, 5), [900 + number] * random_.randint(1, 5)]
        pairs.append(Pair([shared + tail for tail in own], random_.randint(1, 12), 0.5, seed=number))
    return pairs


def run(lockstep: Lockstep, pairs: list[Pair], *, max_steps: int = 20_000) -> None:
    lockstep.submit(pairs)
    num_done = 0
    for _ in range(max_steps):
        num_done += len(lockstep.advance())
        if lockstep.is_idle:
            break
    assert num_done == len(pairs), f"{num_done} of {len(pairs)} pairs after {max_steps} steps"


def limits(**options: int) -> Limits:
    settings = {"max_rows": 8, "max_tokens_per_step": 64, "max_length": 200, "num_blocks": 200} | options
    return Limits(block_size=BLOCK, **settings)


def assert_right(pairs: list[Pair]) -> None:
    for pair in pairs:
        assert (pair.decoded.tokens, pair.decoded.stop_reason) == expected(pair)
        assert pair.unpaired_tokens == 0


def test_a_calm_engine_gives_every_pair_its_tokens_without_a_split() -> None:
    pairs = make_pairs(30)
    run(Lockstep(RoughEngine(budget=10_000), limits(max_tokens_per_step=10_000), STOPS), pairs)
    assert_right(pairs)
    assert sum(pair.decoded.splits for pair in pairs) == 0


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "trouble", [{"budget": 16}, {"budget": 64, "late": 0.3}, {"budget": 64, "preempt": 0.2}]
)
def test_splits_are_repaired_and_no_unpaired_token_is_kept(trouble: dict, seed: int) -> None:
    pairs = make_pairs(40, seed=seed)
    engine = RoughEngine(seed=seed, **trouble)
    run(Lockstep(engine, limits(max_tokens_per_step=trouble["budget"]), STOPS), pairs)
    assert engine.num_unpaired_emissions > 0
    assert sum(pair.decoded.splits for pair in pairs) > 0
    assert_right(pairs)


def test_few_kv_blocks_let_few_pairs_in_but_lose_none() -> None:
    pairs = make_pairs(20)
    most = max(BlockBudget(999, BLOCK).worst_case(pair.branches, pair.max_new_tokens) for pair in pairs)
    run(Lockstep(RoughEngine(budget=64), limits(num_blocks=most), STOPS), pairs)
    assert_right(pairs)


def test_a_pair_that_never_gets_into_step_ends_with_an_error() -> None:
    pairs = make_pairs(1)
    run(Lockstep(RoughEngine(budget=1), limits(max_tokens_per_step=1), STOPS), pairs)
    assert "lost lock-step" in pairs[0].decoded.error


def test_impossible_pairs_end_with_an_error_and_leave_the_others_alone() -> None:
    pairs = make_pairs(6)
    pairs[1].branches[1] = list(range(400))
    pairs[3].branches = [list(range(150)), list(range(500, 650))]
    pairs[5].branches = [[], []]
    run(Lockstep(RoughEngine(budget=64), limits(num_blocks=60), STOPS), pairs)
    assert "need 4" in pairs[1].decoded.error and "of 200" in pairs[1].decoded.error
    assert "KV blocks of 60" in pairs[3].decoded.error
    assert "refused by the engine: an empty prompt" in pairs[5].decoded.error
    assert_right([pairs[0], pairs[2], pairs[4]])


def test_what_the_engine_gives_up_becomes_an_error() -> None:
    class GivesUp(RoughEngine):
        def step(self) -> list[Emission]:
            return [Emission(row_id, [], True, error="no memory") for row_id in self.rows]

    pairs = make_pairs(2)
    run(Lockstep(GivesUp(budget=64), limits(), STOPS), pairs)
    assert all("no memory" in pair.decoded.error for pair in pairs)


@pytest.mark.parametrize(
    ("tokens", "reason", "text"),
    [((EOS, EOS), "eos", ""), ((BREAK, BREAK), "greedy_stop", "."), ((BREAK, EOS), "contrast_stop", ".")],
)
def test_how_the_two_rows_end_says_why(tokens: tuple[int, int], reason: str, text: str) -> None:
    class Ends(RoughEngine):
        def step(self) -> list[Emission]:
            return [Emission(row_id, [token], True) for row_id, token in zip(self.rows, tokens, strict=True)]

    pairs = make_pairs(1)
    run(Lockstep(Ends(budget=64), limits(), STOPS), pairs)
    assert (pairs[0].decoded.stop_reason, pairs[0].decoded.last_text) == (reason, text)
    assert pairs[0].decoded.tokens == []


def test_block_budget_counts_what_a_naive_count_of_prefixes_gives() -> None:
    random_ = random.Random(0)
    budget, taken = BlockBudget(10_000, BLOCK), {}
    for owner in range(40):
        stem = [7] * random_.randint(0, 20)
        prompts = [stem + [random_.randrange(3) for _ in range(random_.randint(1, 9))] for _ in range(2)]
        num_new = random_.randint(1, 9)
        budget.take(owner, prompts, num_new)
        taken[owner] = (prompts, num_new)
        if owner % 3 == 2:
            budget.give(owner - 1), taken.pop(owner - 1)
        full = {
            tuple(prompt[:end])
            for prompts, _ in taken.values()
            for prompt in prompts
            for end in range(BLOCK, len(prompt) + 1, BLOCK)
        }
        own = sum(
            (len(prompt) + new + BLOCK - 1) // BLOCK - len(prompt) // BLOCK
            for prompts, new in taken.values()
            for prompt in prompts
        )
        assert len(budget._shared) + budget._num_own == len(full) + own
