"""The arithmetic of `bench train`, without its clocks; the passes that its arms make."""

from __future__ import annotations

import pytest
import torch

from cotray.bench.train import Steps, Tokens, check_losses, figures_of, ratio
from cotray.bench.train_arms import SIDE, both_sides_padded, turns
from cotray.errors import StageError
from cotray.models.loading import load_model
from cotray.models.sequences import IGNORED, Encoded, collate
from cotray.training.loss import batch_loss_sum

ROWS = [
    Encoded((5, 6, 7), (8, 9), (True, True)),
    Encoded((5, 6), (7, 8, 9, 10, 11), (False, True, True, True, True)),
]


def steps(seconds: list[float], *, places: float = 100, loss: float = 2.0) -> Steps:
    count = len(seconds)
    return Steps(4.0, seconds, [loss] * count, [places] * count, [10.0 + place for place in range(count)])


def test_a_speedup_is_the_median_of_the_rounds_without_the_first():
    # 2, 4 and 3 times as fast; the first step would be 100 times.
    assert ratio(steps([1, 1, 1, 2]), steps([100, 2, 4, 6])) == 3


def test_the_ratios_at_the_top_are_the_smallest_of_both_precisions():
    exact = {
        "cotray": steps([9, 2, 2, 2], places=80),
        "plain": steps([9, 2, 2, 2]),
        "trl_alike": steps([9, 3, 3, 3]),
        "trl": steps([9, 4, 4, 4]),
        "padded": steps([9, 8, 8, 8]),
    }
    rounded = {name: steps([9, 3, 3, 3]) for name in ("cotray", "plain", "trl_alike", "trl")}
    tokens = [Tokens(16, 60, 30)] * 4
    figures = figures_of(
        {"float32": exact, "bfloat16": rounded}, {"float32": tokens, "bfloat16": [Tokens(2, 60, 30)] * 4}
    )
    assert figures["speedup_over_trl"] == 1 and figures["float32/speedup_over_trl"] == 2
    assert figures["speedup_over_padded"] == 4  # of float32 alone
    assert figures["share_of_plain_loop"] == 1
    assert figures["padding_share"] == pytest.approx(1 - 60 / 80)
    assert figures["start_s"] == 4
    assert figures["float32/cotray/examples_per_s"] == 8
    assert figures["float32/cotray/supervised_tokens_per_s"] == 15
    assert figures["float32/cotray/peak_mib"] == 13


def test_arms_whose_losses_differ_are_not_compared():
    arms = {"plain": steps([1, 1]), "cotray": steps([1, 1]), "trl": steps([1, 1], loss=2.1)}
    with pytest.raises(StageError, match=r"step 1: the loss of trl in float32 is 2\.1"):
        check_losses("float32", arms)


def test_scotts_padding_fills_both_sides_and_has_the_loss_of_the_rows_without_it():
    padded = both_sides_padded(ROWS, pad=0)
    assert padded.num_places == 2 * 2 * SIDE
    assert (padded.labels_BK != IGNORED).sum() == 2 + 4
    model = load_model("random:llama", dtype=torch.float32)
    alone = sum(
        batch_loss_sum(model, collate([row], pad_token_id=0, is_encoder_decoder=False)).item() for row in ROWS
    )
    assert batch_loss_sum(model, padded).item() == pytest.approx(alone, rel=1e-5)


def test_every_arm_of_a_process_takes_each_step_in_turn():
    assert list(turns("plain", "float32", 2)) == [("plain", 0), ("padded", 0), ("plain", 1), ("padded", 1)]
    assert list(turns("plain", "bfloat16", 2)) == [("plain", 0), ("plain", 1)]
