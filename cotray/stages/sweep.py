"""sweep: the runs of an ablation, one after the other on one cluster, and a table over seeds.

Resumable like its parts: a run that is done costs nothing, and rationales that an earlier run made under the
same settings are taken over, so that the teacher decodes each setting once.
"""

from __future__ import annotations

from collections.abc import Sequence

from cotray.config_sweep import Cell, SweepConfig, runs
from cotray.data.store import RunFolder
from cotray.errors import CotrayError, StageError
from cotray.report.sweep import write_sweep
from cotray.stages.claims import findings
from cotray.stages.cluster import cluster
from cotray.stages.run import run_stages


def sweep(config: SweepConfig, cells: Sequence[Cell], *, overwrite: bool = False) -> str:
    """Make what is missing, write sweep.json and sweep.html after every run, and return the table.

    `overwrite` makes every run again; what an earlier one of this call made is still taken over.
    A run that fails does not stop the others. Raises StageError at the end if one did, naming them.
    """
    configs = list(runs(cells))
    done: list[str] = []
    failed: dict[str, CotrayError] = {}

    def write() -> str:
        return write_sweep(config, cells, findings(config.claims, cells, done), done)

    with cluster(configs[0].ray, configs[0].storage):
        for position, one in enumerate(configs):
            label = f"{position + 1}/{len(configs)} {one.run_dir.removeprefix(config.run_dir).strip('/')}"
            was_done = not overwrite and RunFolder(one.run_dir).manifest("simulations") is not None
            try:
                run_stages(one, overwrite=overwrite, reuse_from=done, label=label)
                done.append(one.run_dir)
            except CotrayError as error:
                failed[one.run_dir] = error
            if not was_done:  # what there is so far can be looked at while the others run
                write()
    table = write()
    if failed:
        causes = "; ".join(f"{run_dir}: {error}" for run_dir, error in failed.items())
        raise StageError(f"{len(failed)} of {len(configs)} runs failed ({causes})\n{table}")
    return table
