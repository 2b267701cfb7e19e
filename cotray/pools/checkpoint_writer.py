"""Checkpoints of a running training on the storage, while it goes on."""

from __future__ import annotations

import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from cotray.storage.checkpoints import complete, discard, publish
from cotray.storage.filesystems import with_retries

if TYPE_CHECKING:
    from cotray.training.checkpoint import TrainState


class CheckpointWriter:
    """Every worker uploads the shards it wrote; when all have, the first one makes them count.

    Training goes on while they are uploaded. One checkpoint at a time: the next waits for the one before.
    """

    def __init__(self, folder: str) -> None:
        from ray import train as ray_train

        context = ray_train.get_context()
        self.folder, self.rank, self.num_workers = folder, context.get_world_rank(), context.get_world_size()
        self._upload: Future[None] | None = None
        self._thread = ThreadPoolExecutor(1, "cotray-checkpoint")

    def __call__(self, state: TrainState) -> None:
        from ray.train import collective

        from cotray.training.checkpoint import save

        self.wait()
        uri = f"{self.folder}/step-{state.progress.step:08d}"
        local = tempfile.TemporaryDirectory(prefix="cotray-checkpoint-")
        save(state, local.name)
        if self.rank == 0:
            with_retries(lambda: discard(uri))
        collective.barrier()
        self._upload = self._thread.submit(self._publish, local, uri)

    def wait(self) -> None:
        """Until the last checkpoint counts, as far as it is this worker's."""
        if self._upload is not None:
            self._upload.result()

    def _publish(self, local: tempfile.TemporaryDirectory[str], uri: str) -> None:
        with local as folder:
            with_retries(lambda: publish(folder, uri, self.rank))
        if self.rank == 0:
            with_retries(lambda: complete(uri, self.num_workers))
