"""vLLM's V2 model runner on a CPU: Triton's interpreter runs its kernels, and all else is as it is.

vLLM takes that runner only where it finds a Triton with a driver, so it is shown one before it is imported.
Import nothing here that imports vLLM.
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
