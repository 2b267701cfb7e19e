"""What vLLM does on GPUs alone, on a CPU: its V2 model runner, and steps that begin before the last one ends.

Triton's interpreter runs that runner's kernels, slowly; all else is as it is. vLLM takes the runner only
where it finds a Triton with a driver, so it is shown one before it is imported. Import nothing here that
imports vLLM.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from forked import called_in


def with_v2_runner(function: Callable[..., Any], *arguments: Any) -> Any:
    """What `function` returns, called in a process of its own in which vLLM uses the V2 runner."""
    return called_in(multiprocessing.get_context("spawn"), _call, function, *arguments)


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    os.environ |= {"TRITON_INTERPRET": "1", "VLLM_USE_V2_MODEL_RUNNER": "1"}
    from triton.backends import backends

    backends.clear()
    backends["cpu"] = SimpleNamespace(driver=SimpleNamespace(is_active=lambda: True), compiler=None)  # type: ignore[assignment]
    return function(*arguments)


def begin_steps_early() -> None:
    """Let engines that are started from now on schedule asynchronously, which vLLM does not do on CPUs."""
    from vllm.platforms.cpu import CpuPlatform

    as_on_cpus: Any = CpuPlatform.check_and_update_config

    def forced(vllm_config: Any) -> None:
        as_on_cpus(vllm_config)
        vllm_config.scheduler_config.async_scheduling = True

    CpuPlatform.check_and_update_config = staticmethod(forced)  # type: ignore[method-assign]


def slot_states(num_slots: int, max_length: int, vocabulary: int) -> Any:
    """The requests of a V2 runner, in its slots."""
    import vllm.v1.worker.gpu.buffer_utils as buffers
    from vllm.v1.worker.cpu.buffer_utils import UvaBuffer

    buffers.UvaBuffer = UvaBuffer  # as vLLM does where its workers run on CPUs
    from vllm.v1.worker.gpu.states import RequestState

    return RequestState(num_slots, max_length, max_length, 0, vocabulary, torch.device("cpu"))


def context_of(states: Any, rows: dict[str, int], *, per_request: int = 1) -> Any:
    """What a V2 processor is told of a step. `rows`: of every request, in the order of its rows, how many
    tokens are computed after the step."""
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext

    slots = np.array([states.req_id_to_index[name] for name in rows], dtype=np.int32)
    mapping, computed = torch.from_numpy(slots), torch.tensor(list(rows.values()))
    return LogitsContext(
        expanded_idx_mapping=mapping.repeat_interleave(per_request),
        idx_mapping=mapping,
        idx_mapping_np=slots,
        expanded_local_pos=torch.arange(per_request).repeat(len(rows)),
        input_ids=torch.zeros(len(rows) * per_request, dtype=torch.int32),
        pos=(computed - 1).repeat_interleave(per_request),
        seq_lens_upper_bound_np=computed.numpy(),
    )
