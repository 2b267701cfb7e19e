"""What vLLM does on GPUs alone, on a CPU: its V2 model runner, and steps that begin before the last one ends.

Triton's interpreter runs that runner's kernels, slowly; all else is as it is. vLLM takes the runner only
where it finds a Triton with a driver, so it is shown one before it is imported. Import nothing here that
imports vLLM.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from types import SimpleNamespace
from typing import Any


def with_v2_runner(function: Callable[..., Any], *arguments: Any) -> Any:
    """What `function` returns, called in a process of its own in which vLLM uses the V2 runner."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
        future = executor.submit(_call, function, *arguments)
        try:
            return future.result()
        except BaseException:
            for process in executor._processes.values():
                process.kill()
            raise


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
