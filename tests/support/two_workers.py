"""Two or more processes that train together over gloo. One group makes all measurements of a test module."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import forked
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.tensor import DTensor


def spawn(measure: Callable[[int, Path], None], folder: Path, size: int = 2) -> None:
    """Call `measure(rank, folder)` in all; if one fails, all end."""
    torch.set_num_threads(1)
    forked.context(forked.TRAINING)
    mp.start_processes(measure, args=(folder,), nprocs=size, join=True, start_method="forkserver")


@contextmanager
def group_of(size: int, rank: int, folder: Path) -> Iterator[None]:
    """Inside `measure`: a process group of the first `size`; each waits at the end until all are done."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    meeting = f"file://{folder}/rendezvous-of-{size}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=size)
    yield
    dist.barrier()
    dist.destroy_process_group()


def group_of_two(rank: int, folder: Path) -> AbstractContextManager[None]:
    return group_of(2, rank, folder)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
