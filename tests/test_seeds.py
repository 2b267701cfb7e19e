from __future__ import annotations

import subprocess
import sys
from collections import Counter

from cotray.seeds import digest, seeded


def test_digest_is_the_blake2b_of_seed_and_parts():
    # printf '42\x1fq-1\x1fsplit' | b2sum -l 64
    assert digest(42, "q-1", "split") == 0x6017197C8290D4A2


def test_digest_is_the_same_in_another_process():
    code = "from cotray.seeds import digest; print(digest(42, 'q-1', 'split'))"
    for hash_seed in ("0", "1"):
        result = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONHASHSEED": hash_seed}
        )
        assert int(result.stdout) == digest(42, "q-1", "split")


def test_parts_are_not_glued_together():
    assert digest(1, "ab", "c") != digest(1, "a", "bc")
    assert digest(1, "1") != digest(11, "")


def test_digests_are_spread_over_64_bits():
    tenths = Counter(digest(42, str(index)) * 10 // 2**64 for index in range(10_000))
    assert set(tenths) == set(range(10))
    assert all(850 < count < 1150 for count in tenths.values())


def test_streams_repeat_by_seed_and_id_and_differ_by_purpose():
    assert seeded(7, "q-1", "contrast").random() == seeded(7, "q-1", "contrast").random()
    assert seeded(7, "q-1", "contrast").random() != seeded(7, "q-1", "counterfactual").random()
    assert seeded(7, "q-1", "contrast").random() != seeded(8, "q-1", "contrast").random()
