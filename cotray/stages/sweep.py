"""sweep: the runs of an ablation, one after the other on one cluster, and a table over seeds.

Resumable like its parts: a run that is done costs nothing, and rationales that an earlier run made under the
same settings are taken over, so that the teacher decodes each setting once.
"""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Sequence

from cotray.config.sweep import Cell, SweepConfig, runs
from cotray.errors import StageError, cotray_error
from cotray.pools.ray_cluster import cluster
from cotray.report.claims import findings
from cotray.report.sweep import write_sweep
from cotray.stages.preflight import problems, tell_what_lacks
from cotray.stages.run import run_stages
from cotray.storage.run_folder import RunFolder


def sweep(config: SweepConfig, cells: Sequence[Cell], *, overwrite: bool = False, wait: bool = False) -> str:
    """Make what is missing, write sweep.json and sweep.html after every run, and return the table.

    `overwrite` makes again what changed of every run, and what follows from it.
    A run that fails, for what a user can change or because Ray lost it, does not stop the others. Raises
    StageError at the end if one did, naming them.
    """
    configs = list(runs(cells))
    done: list[str] = []
    failed: dict[str, str] = {}

    def write() -> str:
        return write_sweep(config, cells, findings(config.claims, cells, done), done)

    for problem in problems(configs, "sweep"):  # each costs the runs alone that have it
        print(f"cotray: {problem}", file=sys.stderr, flush=True)
    with cluster(configs[0].ray, configs[0].storage):
        tell_what_lacks(configs, "sweep")
        for position, one in enumerate(configs):
            label = f"{position + 1}/{len(configs)} {one.run_dir.removeprefix(config.run_dir).strip('/')}"
            was_done = RunFolder(one.run_dir).manifest("simulations") is not None
            try:
                run_stages(one, overwrite=overwrite, wait=wait, reuse_from=done, label=label)
                done.append(one.run_dir)
            except Exception as error:
                failed[one.run_dir] = _reason(error)
            if not was_done:  # what there is so far can be looked at while the others run
                write()
    table = write()
    if failed:
        reasons = "; ".join(f"{run_dir}: {reason}" for run_dir, reason in failed.items())
        raise StageError(f"{len(failed)} of {len(configs)} runs failed ({reasons})\n{table}")
    return table


def _reason(error: Exception) -> str:
    """Why a run failed, in one line; raises what is neither the user's nor Ray's, a bug in this process."""
    from ray.exceptions import RayError

    if known := cotray_error(error):
        return str(known)
    if not isinstance(error, RayError):
        raise error
    traceback.print_exception(error)  # one line may not do to find a bug in a worker
    # Of an exception in a worker Ray's text is the traceback, which begins with the cause of all.
    first = re.search(r"^[\w.]+(?:Error|Exception): .+", str(error), re.MULTILINE)
    return first[0] if first else " ".join(str(error).split())
