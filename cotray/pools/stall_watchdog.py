"""Ray Data's scheduling loop, watched from inside: the one place where it can be asked and ended cleanly.

Ray Data takes a callback class, which it also sends to its workers: so the class holds nothing itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray.data._internal.execution.execution_callback import ExecutionCallback

if TYPE_CHECKING:
    from cotray.pools.progress import StageWatch

_watch: StageWatch | None = None
"""Of this driver, where one pipeline runs at a time."""


class StallWatchdog(ExecutionCallback):
    """Tells the watch the number of replicas; raises its failure, which ends the pipeline."""

    def on_execution_step(self, executor: Any) -> None:
        if _watch is None:
            return
        pools = [pool for op in executor._topology for pool in op.get_autoscaling_actor_pools()]
        infos = [pool.get_actor_info() for pool in pools]
        running = sum(info.running for info in infos)
        _watch.replicas = (running, sum(info.pending + info.restarting for info in infos))
        busy = running - sum(info.idle for info in infos)
        _watch.is_waiting = busy == 0 and any(info.restarting and info.tasks_in_flight for info in infos)
        if _watch.failure is not None:
            raise _watch.failure


def watch_pipeline(context: Any, watch: StageWatch) -> None:
    """Let a pipeline of this Ray Data context be seen by `watch`, and end when its `failure` is set."""
    global _watch
    _watch = watch
    watch.failure = None
    context.execution_no_progress_timeout_s = -1  # the watch counts rows, Ray Data's own check would block it
    context.custom_execution_callback_classes = [StallWatchdog]
