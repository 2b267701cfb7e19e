"""The coupling of rows inside vLLM's batch, against a naive loop over pairs. No engine is started."""

import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cotray.teacher.contrastive import contrastive_scores

pytestmark = pytest.mark.vllm
VOCABULARY, EOS, BREAK = 40, 3, 5


def make_processor(**settings: Any) -> Any:
    from cotray.teacher.vllm_processors import PairedRows

    config: Any = SimpleNamespace(
        additional_config={"cotray": {"eos": [EOS], "breaks": [BREAK], "decoding": {}, **settings}},
        scheduler_config=SimpleNamespace(max_num_seqs=16),
    )
    return PairedRows(config, torch.device("cpu"), False)


def added(index: int, pair: str, branch: int, *, weight: float = 0.5, num_branches: int = 2):
    extra = {"pair": pair, "branch": branch, "num_branches": num_branches, "weight": weight}
    return (index, SimpleNamespace(extra_args={"cotray": extra | {"seed": 0, "position": 0}}), [], [])


def update(processor, *, removed=(), added=(), moved=()) -> None:
    from vllm.v1.sample.logits_processor import BatchUpdate

    processor.update_state(BatchUpdate(16, list(removed), list(added), list(moved)))


def logits(seed: int = 0) -> torch.Tensor:
    return torch.randn(16, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 3


def choice(rows: torch.Tensor, grounded: int, contrast: int, weight: float) -> tuple[int, int]:
    """What both rows should emit, by docs/explanation/method.md#stop-rules."""
    greedy = int(rows[grounded].argmax())
    best = int(contrastive_scores(rows[grounded], rows[contrast], weight=weight).argmax())
    if greedy in (EOS, BREAK):
        return greedy, greedy
    return (best, EOS) if best == BREAK else (best, best)


def test_both_rows_emit_the_pairs_token_and_others_are_left_alone() -> None:
    processor = make_processor()
    update(
        processor, added=[added(0, "a", 0), added(2, "a", 1), added(3, "b", 0, weight=0.2), added(7, "b", 1)]
    )
    before = logits()
    after = processor.apply(before.clone())
    for grounded, contrast, weight in ((0, 2, 0.5), (3, 7, 0.2)):
        expected = choice(before, grounded, contrast, weight)
        assert (int(after[grounded].argmax()), int(after[contrast].argmax())) == expected
    others = [row for row in range(16) if row not in (0, 2, 3, 7)]
    assert torch.equal(after[others], before[others])


def test_a_row_without_its_partner_is_left_alone() -> None:
    processor = make_processor()
    update(processor, added=[added(0, "a", 0), added(1, "b", 1)])
    before = logits()
    assert torch.equal(processor.apply(before.clone()), before)


@pytest.mark.parametrize("seed", range(20))
def test_any_history_of_arrivals_departures_and_moves_couples_the_rows_that_are_there(seed: int) -> None:
    """The processor is told only what changed; the naive side keeps the whole batch."""
    from vllm.v1.sample.logits_processor import MoveDirectionality

    random_ = random.Random(seed)
    processor, batch, number = make_processor(), {}, 0
    for step in range(60):
        removed = [i for i in sorted(batch, reverse=True) if random_.random() < 0.15]
        for index in removed:
            del batch[index]
        arrivals = []
        for _ in range(random_.randint(0, 2)):
            number += 1
            for branch in (0, 1) if random_.random() < 0.8 else (0,):
                free = [i for i in range(16) if i not in batch]
                if free:
                    index = random_.choice(free)
                    batch[index] = (str(number), branch)
                    arrivals.append(added(index, str(number), branch))
                    removed = [i for i in removed if i != index]
        moved = []
        if batch and random_.random() < 0.5:
            source, target = random_.choice(sorted(batch)), random_.randrange(16)
            if target not in batch:
                moved.append((source, target, MoveDirectionality.UNIDIRECTIONAL))
                batch[target] = batch.pop(source)
            elif target != source:
                moved.append((source, target, MoveDirectionality.SWAP))
                batch[source], batch[target] = batch[target], batch[source]
        update(processor, removed=removed, added=arrivals, moved=moved)
        before = logits(seed * 100 + step)
        after = processor.apply(before.clone())
        where = {row: index for index, row in batch.items()}
        for (pair, branch), index in where.items():
            partner = where.get((pair, 1 - branch))
            if partner is None:
                assert torch.equal(after[index], before[index])
                continue
            rows = (index, partner) if branch == 0 else (partner, index)
            assert int(after[index].argmax()) == choice(before, *rows, 0.5)[branch]


@pytest.mark.parametrize("best", [EOS, BREAK, 9])
def test_how_the_rows_end_tells_the_plain_stop_from_the_contrastive_one(best: int) -> None:
    processor = make_processor()
    update(processor, added=[added(0, "a", 0), added(1, "a", 1)])
    for is_greedy in (True, False):
        rows = logits()
        rows[0, best if is_greedy else 8] = 50.0
        rows[0, best] = max(rows[0, best], torch.tensor(49.0))
        rows[1, 8] = 200.0
        after = processor.apply(rows.clone())
        emitted = [int(row.argmax()) for row in after[:2]]
        assert emitted == ([best, EOS] if best == BREAK and not is_greedy else [best, best])


def test_evidence_survives_the_way_through_the_rows() -> None:
    from cotray.teacher.coupling import read_evidence

    processor = make_processor(record_scores=True)
    update(processor, added=[added(4, "a", 0, weight=0.9), added(1, "a", 1)])
    before = logits(3)
    after = processor.apply(before.clone())
    emitted, greedy = int(after[4].argmax()), int(before[4].argmax())
    assert emitted != greedy, "contrast must change this token"
    for row in (4, 1):
        values, tokens = after[row].topk(2)
        top = {int(t): float(v) for t, v in zip(tokens, values, strict=True)}
        expected = before[row].log_softmax(-1)
        read = read_evidence(emitted, top)
        assert read[0] == greedy
        assert read[1:] == pytest.approx((expected[emitted].item(), expected[greedy].item()), abs=1e-4)


def test_evidence_of_hopeless_tokens_stays_finite_and_in_order() -> None:
    from cotray.teacher.coupling import read_evidence, write_evidence

    rows = torch.zeros(1, VOCABULARY)
    one, zero = torch.tensor([1]), torch.tensor([0])
    write_evidence(rows, zero, one, torch.tensor([2]), torch.tensor([-torch.inf]), torch.tensor([0.0]))
    assert int(rows[0].argmax()) == 1
    top = {1: float(rows[0, 1]), 2: float(rows[0, 2])}
    greedy, logp, greedy_logp = read_evidence(1, top)
    assert (greedy, greedy_logp) == (2, 0.0)
    assert logp < -1e20
