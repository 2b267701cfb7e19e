"""The door to vLLM's V2 runner, on batches made by hand of its own classes. No engine is started."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vllm_runners import context_of, slot_states

from cotray.errors import ConfigError
from cotray.models.token_draws import draw, uniforms
from cotray.teacher.contrastive import contrastive_scores

pytestmark = pytest.mark.vllm
VOCABULARY, EOS, BREAK, NUM_SLOTS = 40, 3, 5, 8


class Batch:
    """Requests in slots of vLLM's, and steps whose rows come in any order."""

    def __init__(self, **settings: Any) -> None:
        from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcRequestState

        from cotray.teacher.vllm_processors import PairedSlots

        config: Any = SimpleNamespace(
            additional_config={"cotray": {"eos": [EOS], "breaks": [BREAK], "decoding": {}, **settings}}
        )
        self.states = slot_states(NUM_SLOTS, 64, VOCABULARY)
        self.door = PairedSlots(config, LogitsProcRequestState.from_request_state(self.states))

    def add(self, name: str, *, prompt: int = 5, done: int = 0, **extra: Any) -> int:
        """`name`: pair and branch, such as "a0"; `done`: outputs before it was taken out and came back."""
        from vllm import SamplingParams

        values = {"num_branches": 2, "weight": 0.5, "seed": 0, "position": 0} | extra
        extra_args = {"cotray": {"pair": name[0], "branch": int(name[1]), **values}}
        self.states.add_request(name, prompt, [1] * (prompt + done), 0, 20)
        slot = self.states.req_id_to_index[name]
        self.door.add_request(slot, SamplingParams(temperature=0.0, extra_args=extra_args))
        return slot

    def step(self, rows: dict[str, int], logits: torch.Tensor, *, per_request: int = 1) -> torch.Tensor:
        """`rows`: of every row, in this order, how many tokens of its request are computed after the step."""
        self.states.prompt_len.copy_to_uva()
        self.door.apply_staged_writes()
        context = context_of(self.states, rows, per_request=per_request)
        return self.door.apply(logits.clone(), context)


def random_logits(count: int, seed: int = 0) -> torch.Tensor:
    """Without likely stop tokens."""
    rows = torch.randn(count, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 3
    rows[:, [EOS, BREAK]] = -20
    return rows


def best(logits: torch.Tensor, grounded: int, contrast: int, weight: float = 0.5) -> int:
    return int(contrastive_scores(logits[grounded], logits[contrast], weight=weight).argmax())


def test_pairs_are_found_however_the_rows_of_a_step_are_ordered() -> None:
    batch = Batch()
    for name in ("a0", "b1", "a1", "b0"):
        batch.add(name, prompt=5 + int(name[1]))
    for number, order in enumerate((("a0", "a1", "b0", "b1"), ("b1", "a1", "a0", "b0"))):
        before = random_logits(4, number)
        after = batch.step({name: 5 + int(name[1]) for name in order}, before)
        for pair in "ab":
            rows = order.index(f"{pair}0"), order.index(f"{pair}1")
            assert [int(after[row].argmax()) for row in rows] == [best(before, *rows)] * 2


def test_rows_whose_partner_is_missing_or_behind_are_left_alone() -> None:
    batch = Batch()
    for name, prompt in (("a0", 5), ("a1", 9), ("b0", 5)):
        batch.add(name, prompt=prompt)
    before = random_logits(3)
    half_prefilled = batch.step({"a0": 5, "a1": 7, "b0": 5}, before)
    assert torch.equal(half_prefilled, before)
    whole = batch.step({"a0": 5, "a1": 9, "b0": 5}, before)
    assert not torch.equal(whole[:2], before[:2]) and torch.equal(whole[2], before[2])
    absent = batch.step({"a0": 6, "b0": 5}, before[:2])
    assert torch.equal(absent, before[:2])


def test_evidence_is_not_written_into_rows_that_stand_at_different_tokens() -> None:
    batch = Batch(record_scores=True)
    batch.add("a0"), batch.add("a1")
    before = random_logits(2)
    assert torch.equal(batch.step({"a0": 5, "a1": 6}, before), before)
    assert torch.isinf(batch.step({"a0": 6, "a1": 6}, before)).any()


def test_a_slot_that_is_given_away_forgets_who_was_in_it() -> None:
    batch = Batch()
    batch.add("a0"), batch.add("a1")
    left = batch.states.remove_request("a1")
    assert batch.add("b0") == left
    before = random_logits(2)
    assert torch.equal(batch.step({"a0": 5, "b0": 5}, before), before)
    batch.states.remove_request("a0")
    batch.add("b1")
    after = batch.step({"b0": 5, "b1": 5}, before)
    assert [int(row.argmax()) for row in after] == [best(before, 0, 1)] * 2


def test_requests_that_come_back_in_each_others_slots_are_coupled_there() -> None:
    batch = Batch()
    slots = batch.add("a0"), batch.add("a1")
    before = random_logits(3)
    batch.step({"a0": 5, "a1": 5}, before[:2])
    for name in ("a1", "a0"):  # as when memory runs out
        batch.states.remove_request(name)
    assert (batch.add("a1", done=1), batch.add("a0", done=1)) == slots
    batch.add("c0", num_branches=1)
    after = batch.step({"a1": 6, "c0": 5, "a0": 6}, before)
    assert [int(after[row].argmax()) for row in (2, 0)] == [best(before, 2, 0)] * 2
    assert int(after[1].argmax()) == int(before[1].argmax())


def test_draws_depend_on_the_seed_and_the_position_in_the_rationale() -> None:
    batch = Batch(is_sampling=True, decoding={"temperature": 0.7})
    for branch in (0, 1):
        batch.add(f"a{branch}", seed=11, position=4)
    before = random_logits(2)
    for computed in (5, 6, 9):
        after = batch.step({"a0": computed, "a1": computed}, before)
        position = torch.tensor([4 + computed - 5])
        scores = contrastive_scores(before[0] / 0.7, before[1] / 0.7, weight=0.5)[None]
        expected = draw(scores.log_softmax(-1), uniforms(torch.tensor([11]), position))
        assert [int(row.argmax()) for row in after] == [int(expected)] * 2


def test_several_rows_of_one_request_are_refused() -> None:
    batch = Batch()
    batch.add("a0"), batch.add("a1")
    with pytest.raises(RuntimeError, match="no speculative decoding"):
        batch.step({"a0": 5, "a1": 5}, random_logits(4), per_request=2)


def test_another_version_of_vllm_is_refused_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    import vllm

    from cotray.teacher.vllm_version import check_version

    check_version()
    monkeypatch.setattr(vllm, "__version__", "0.34.1")
    with pytest.raises(
        ConfigError, match=r"vLLM 0\.34\.1 is installed, and the teacher knows 0\.32 and 0\.33"
    ):
        check_version()
