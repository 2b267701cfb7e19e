"""A worker computes with as many threads as it was given CPUs, also where torch was imported before."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_cluster")]


@pytest.mark.parametrize("num_cpus", [1, 2, 3])
def test_a_forked_worker_has_a_thread_for_each_of_its_cpus(num_cpus: int) -> None:
    import ray

    @ray.remote(num_cpus=num_cpus)
    def threads() -> tuple[bool, int]:
        import sys

        was_imported = "torch" in sys.modules
        import torch

        return was_imported, torch.get_num_threads()

    assert ray.get(threads.remote()) == (True, num_cpus)
