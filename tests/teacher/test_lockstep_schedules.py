"""Lock-step through both doors of vLLM, over schedules that hypothesis makes up.

The batch is vLLM's own: V1's InputBatch, which says what changed in its rows, and V2's RequestState with its
recycled slots and rows in any order. Only the schedule and the "model", a hash of what a row has seen, are
made up. Right tokens are those of one pair decoded alone.
"""

import os
import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from vllm_runners import context_of, slot_states

from cotray.teacher.contrastive import StopTokens, contrastive_scores
from cotray.teacher.lockstep import MAX_SPLITS_WITHOUT_PROGRESS, Emission, Limits, Lockstep, Pair, Row

pytestmark = pytest.mark.vllm

NUM_SCHEDULES = int(os.environ.get("COTRAY_SCHEDULES", "1000"))
"""Of each door."""
VOCABULARY, EOS, BREAK = 12, 0, 1
MAX_ROWS, MAX_LENGTH, BLOCK = 8, 64, 4
STOPS = StopTokens(eos=frozenset({EOS}), text_before_break={BREAK: "."})
LIMITS = Limits(
    max_rows=MAX_ROWS, max_tokens_per_step=24, max_length=MAX_LENGTH, num_blocks=60, block_size=BLOCK
)
CONFIG: Any = SimpleNamespace(
    additional_config={"cotray": {"eos": [EOS], "breaks": [BREAK], "decoding": {}}},
    scheduler_config=SimpleNamespace(max_num_seqs=MAX_ROWS),
)
WHOLE, CHUNK, WAIT, PREEMPT, GIVE_UP = range(5)
"""What a step does with a row: all that it has to compute, a token of it, nothing, or it loses its memory."""


def model(text: Sequence[int]) -> torch.Tensor:
    """Logits `(VOCABULARY,)` after the text; stop tokens are seldom the best."""
    values = np.random.default_rng(list(text)).normal(size=VOCABULARY).astype(np.float32)
    values[[EOS, BREAK]] -= 0.5
    return torch.from_numpy(values)


def expected(pair: Pair) -> tuple[list[int], str]:
    """One pair alone, by the scores and docs/explanation/method.md#stop-rules."""
    tokens: list[int] = []
    while len(tokens) < pair.max_new_tokens:
        rows = [model(branch + tokens) for branch in pair.branches]
        greedy = chosen = int(rows[0].argmax())
        if len(rows) == 2:
            chosen = int(contrastive_scores(*rows, weight=pair.weight).argmax())
        if greedy in (EOS, BREAK):
            return tokens, "eos" if greedy == EOS else "greedy_stop"
        if chosen in (EOS, BREAK):
            return tokens, "eos" if chosen == EOS else "contrast_stop"
        tokens.append(chosen)
    return tokens, "length"


class Door(Protocol):
    """vLLM's batch with our processor in it."""

    def leave(self, row_id: str) -> None:
        """The row's request is over, or has lost its memory."""
        ...

    def emit(
        self, computed: dict[str, int], rows: dict[str, Row], outputs: dict[str, list[int]]
    ) -> dict[str, int]:
        """The token of every row of this step, whose first `computed` tokens are computed."""
        ...


class V1:
    def __init__(self) -> None:
        from vllm.v1.sample.logits_processor import LogitsProcessors
        from vllm.v1.worker.gpu_input_batch import InputBatch

        from cotray.teacher.vllm_processors import PairedRows

        self.door = PairedRows(CONFIG, torch.device("cpu"), False)
        self.batch = InputBatch(
            MAX_ROWS, MAX_LENGTH, MAX_LENGTH, torch.device("cpu"), VOCABULARY, [BLOCK], [MAX_LENGTH // BLOCK],
            logitsprocs=LogitsProcessors([self.door]),
        )  # fmt: skip

    def leave(self, row_id: str) -> None:
        self.batch.remove_request(row_id)

    def emit(
        self, computed: dict[str, int], rows: dict[str, Row], outputs: dict[str, list[int]]
    ) -> dict[str, int]:
        from vllm.v1.worker.gpu_input_batch import CachedRequestState

        # As the runner does: rows that are not scheduled leave the batch and come back.
        for row_id in set(self.batch.req_id_to_index) - set(computed):
            self.batch.remove_request(row_id)
        for row_id in computed:
            if row_id not in self.batch.req_id_to_index:
                self.batch.add_request(
                    CachedRequestState(
                        row_id,
                        rows[row_id].prompt,
                        [],
                        parameters(rows[row_id]),
                        None,
                        ([],),
                        0,
                        outputs[row_id],
                    )
                )
        self.batch.condense()
        self.batch.refresh_metadata()
        order = self.batch.req_ids
        logits = logits_of(order, computed, rows, outputs)
        return dict(zip(order, self.door.apply(logits).argmax(-1).tolist(), strict=True))


class V2:
    def __init__(self) -> None:
        from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcRequestState

        from cotray.teacher.vllm_processors import PairedSlots

        self.states = slot_states(MAX_ROWS, MAX_LENGTH, VOCABULARY)
        self.door = PairedSlots(CONFIG, LogitsProcRequestState.from_request_state(self.states))
        self.random = random.Random(0)

    def leave(self, row_id: str) -> None:
        self.states.remove_request(row_id)

    def emit(
        self, computed: dict[str, int], rows: dict[str, Row], outputs: dict[str, list[int]]
    ) -> dict[str, int]:
        for row_id in computed:
            if row_id not in self.states.req_id_to_index:
                row = rows[row_id]
                text = row.prompt + outputs[row_id]
                self.states.add_request(row_id, len(row.prompt), text, 0, row.max_new_tokens)
                self.door.add_request(self.states.req_id_to_index[row_id], parameters(row))
        self.states.prompt_len.copy_to_uva()
        self.door.apply_staged_writes()
        order = list(computed)
        self.random.shuffle(order)
        context = context_of(self.states, {row_id: computed[row_id] for row_id in order})
        logits = self.door.apply(logits_of(order, computed, rows, outputs), context)
        return dict(zip(order, logits.argmax(-1).tolist(), strict=True))


def parameters(row: Row) -> Any:
    from vllm import SamplingParams

    extra = {
        name: getattr(row, name) for name in ("pair", "branch", "num_branches", "weight", "seed", "position")
    }
    return SamplingParams(temperature=0.0, max_tokens=row.max_new_tokens, extra_args={"cotray": extra})


def logits_of(
    order: Sequence[str], computed: dict[str, int], rows: dict[str, Row], outputs: dict[str, list[int]]
) -> torch.Tensor:
    texts = ((rows[row_id].prompt + outputs[row_id])[: computed[row_id]] for row_id in order)
    return torch.stack([model(text) for text in texts])


class ScheduledEngine:
    """What `Lockstep` sees of an engine. `plan` says what the next step does with each row, in turn."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self.plan: Sequence[int] = b""
        self.rows: dict[str, Row] = {}
        self.outputs: dict[str, list[int]] = {}
        self.computed: dict[str, int] = {}
        self.num_unpaired = 0

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def add(self, row: Row) -> None:
        self.rows[row.row_id], self.outputs[row.row_id], self.computed[row.row_id] = row, [], 0

    def abort(self, row_ids: Sequence[str]) -> None:
        for row_id in row_ids:
            self._end(row_id)

    def step(self) -> list[Emission]:
        given_up, scheduled = list[Emission](), dict[str, int]()
        for place, row_id in enumerate(list(self.rows)):
            what = self.plan[place] % 5 if place < len(self.plan) else WHOLE
            num_left = len(self.rows[row_id].prompt) + len(self.outputs[row_id]) - self.computed[row_id]
            if what == GIVE_UP:
                self._end(row_id)
                given_up.append(Emission(row_id, [], True, error="gone"))
            elif what == PREEMPT:
                self.computed[row_id] = 0
                self.door.leave(row_id)
            elif what in (WHOLE, CHUNK):
                self.computed[row_id] += num_left if what == WHOLE else 1
                scheduled[row_id] = self.computed[row_id]
        if not scheduled:
            return given_up
        tokens = self.door.emit(scheduled, self.rows, self.outputs)
        ready = {
            row_id: token
            for row_id, token in tokens.items()
            if scheduled[row_id] == len(self.rows[row_id].prompt) + len(self.outputs[row_id])
        }
        partners = [self.rows[row_id].pair for row_id in ready]
        self.num_unpaired += sum(partners.count(self.rows[r].pair) < self.rows[r].num_branches for r in ready)
        return given_up + [self._take(row_id, token) for row_id, token in ready.items()]

    def _take(self, row_id: str, token: int) -> Emission:
        self.outputs[row_id].append(token)
        is_finished = token in (EOS, BREAK) or len(self.outputs[row_id]) == self.rows[row_id].max_new_tokens
        if is_finished:
            self._end(row_id)
        return Emission(row_id, [token], is_finished)

    def _end(self, row_id: str) -> None:
        if self.rows.pop(row_id, None) is not None:
            self.door.leave(row_id)


class Schedules(RuleBasedStateMachine):
    """Pairs come at any time; rows are prefilled in chunks, wait, lose their memory, are given up."""

    door: type[Any] = V1
    num_unpaired = num_splits = 0

    def __init__(self) -> None:
        super().__init__()
        self.engine = ScheduledEngine(self.door())
        self.lockstep = Lockstep(self.engine, LIMITS, STOPS)
        self.pairs, self.done = list[Pair](), list[Pair]()

    @rule(
        shared=st.integers(1, 12),
        tails=st.tuples(st.integers(1, 5), st.integers(1, 5)),
        num_branches=st.sampled_from([2, 2, 2, 1]),
        num_new=st.integers(1, 8),
        weight=st.sampled_from([0.0, 0.5, 1.0]),
    )
    def admit(
        self, shared: int, tails: tuple[int, int], num_branches: int, num_new: int, weight: float
    ) -> None:
        number = len(self.pairs)
        stem = [5 + (number * 7 + i) % 50 for i in range(shared)]
        branches = [stem + [60 + branch + 2 * number] * tails[branch] for branch in range(num_branches)]
        self.pairs.append(Pair(branches, num_new, weight, seed=number))
        self.lockstep.submit([self.pairs[-1]])

    @precondition(lambda self: not self.lockstep.is_idle)
    @rule(plan=st.binary(min_size=MAX_ROWS, max_size=4 * MAX_ROWS))
    def work(self, plan: bytes) -> None:
        """Some steps, with trouble for half of the rows."""
        for start in range(0, len(plan), MAX_ROWS):
            # The greater half of the bytes means no trouble; rows are given up seldom.
            part = [
                WHOLE if b >= 128 else GIVE_UP if b == 64 else b % 4 for b in plan[start : start + MAX_ROWS]
            ]
            self._advance(part)

    def teardown(self) -> None:
        """Whatever has happened: all pairs end, each once, with the tokens of a pair decoded alone."""
        for _ in range(2000):
            if self.lockstep.is_idle:
                break
            self._advance([])
        assert sorted(map(id, self.done)) == sorted(map(id, self.pairs))
        assert not self.engine.rows, "rows were left in the engine"
        for pair in self.pairs:
            tokens, reason = expected(pair)
            assert pair.unpaired_tokens == 0
            if pair.decoded.error:
                assert pair.decoded.tokens == tokens[: len(pair.decoded.tokens)]
                was_lost = "lost lock-step" in pair.decoded.error
                assert was_lost or "gone" in pair.decoded.error, pair.decoded.error
                assert not was_lost or pair.decoded.splits > MAX_SPLITS_WITHOUT_PROGRESS
            else:
                assert (pair.decoded.tokens, pair.decoded.stop_reason) == (tokens, reason)
        Schedules.num_unpaired += self.engine.num_unpaired
        Schedules.num_splits += sum(pair.decoded.splits for pair in self.pairs)

    def _advance(self, plan: Sequence[int]) -> None:
        self.engine.plan = plan
        self.done += self.lockstep.advance()


@pytest.mark.parametrize("door", [V1, V2])
def test_no_schedule_takes_a_token_from_an_unpaired_step_or_loses_a_pair(door: type[Any]) -> None:
    Schedules.door, Schedules.num_unpaired, Schedules.num_splits = door, 0, 0
    run_state_machine_as_test(
        Schedules,
        settings=settings(
            max_examples=NUM_SCHEDULES,
            stateful_step_count=12,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=(
                HealthCheck.too_slow,
                HealthCheck.data_too_large,
                HealthCheck.filter_too_much,
            ),
        ),
    )
    assert Schedules.num_unpaired > NUM_SCHEDULES and Schedules.num_splits > NUM_SCHEDULES
