"""Processes that begin with the large libraries imported, which takes a new one up to fifteen seconds.

They are forked from a server that has only imported: no thread runs in it and no model is there.
"""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import BaseContext, ForkServerContext
from typing import Any

TRAINING = (
    "torch.distributed.fsdp",
    "transformers.generation.utils",
    "transformers.models.llama.modeling_llama",
    "cotray.models.loading",
    "cotray.training.loop",
)
VLLM = (
    "cotray.teacher.vllm_teacher",
    "vllm.entrypoints.llm",
    "vllm.v1.worker.cpu_worker",
    "vllm.model_executor.models.llama",
)


def context(libraries: tuple[str, ...]) -> ForkServerContext:
    """The first call in a process decides what its server imports; later ones may wait for their own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(libraries))
    return context


def in_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What `function` returns, called where vLLM's engine may start. A watchdog as well: pytest-timeout ends
    the wait, and the process with it."""
    return called_in(context(VLLM), _call, function, *arguments)


def called_in(context: BaseContext, function: Callable[..., Any], *arguments: Any) -> Any:
    """What `function` returns, called in a process of that kind, which ends with the wait for it."""
    with ProcessPoolExecutor(1, context) as executor:
        future = executor.submit(function, *arguments)
        try:
            return future.result()
        except BaseException:
            for process in executor._processes.values():
                process.kill()
            raise


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    gc.freeze()  # the engine collects garbage seven times, and what was imported is none
    return function(*arguments)
