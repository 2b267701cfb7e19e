"""The benchmark of the pair processor, on few rows and a small vocabulary."""

from __future__ import annotations

import pytest

from cotray.bench.coupling import bench_coupling


def test_the_processor_takes_the_tokens_that_all_scores_say(capsys: pytest.CaptureFixture[str]) -> None:
    figures = bench_coupling(num_pairs=6, vocabulary=500, num_timed=1)
    assert figures["tokens_equal"] and figures["num_rows"] == 12
    for name in ("step", "step_without_plausibility"):
        assert figures[f"{name}_ms"] > 0
    for name in ("share_of_copy_limit", "speedup_over_scores"):
        assert figures[name] > 0 and figures[f"{name}_without_plausibility"] > 0
    assert "tokens_equal: True" in capsys.readouterr().out
