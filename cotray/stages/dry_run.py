"""`--dry-run`: what a verb would do, and what is done already. Nothing is started, and nothing written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cotray.config import RunConfig
from cotray.data.readers import read_rows
from cotray.errors import CotrayError
from cotray.pools.ray_cluster import cluster, is_local
from cotray.pools.resources import Need
from cotray.stages.overwrite_preview import overwrite_preview, refused, stage_changes
from cotray.stages.preflight import notes, problems
from cotray.stages.probe import cost
from cotray.stages.stage_needs import STAGE_OF, needs_of_stage, stages_of
from cotray.storage.manifest import DamagedFile
from cotray.storage.run_folder import RunFolder

MAX_COUNTED = 100_000
"""Rows of the input that are counted; of more it is said that there are more."""


def dry_run(configs: Sequence[RunConfig], verb: str, *, overwrite: bool = False) -> tuple[str, bool]:
    """The plan as text, and whether nothing speaks against it. Each configuration has a run folder."""
    lines: list[str] = []
    for config in configs:
        lines += [f"{config.run_dir} ({config.method})", *_stages(config, verb)]
        if overwrite:
            lines += [f"  {line}" for line in overwrite_preview(config, verb).splitlines()]
        lines.append("")
    found = problems(configs, verb)
    if not overwrite:
        found += [text for config in configs for text in refused(config, verb) if text not in found]
    if not is_local(configs[0].ray) and not found:
        with cluster(configs[0].ray, configs[0].storage):
            lines += [f"note: {text}" for text in dict.fromkeys(n for c in configs for n in notes(c, verb))]
    lines += ["problems:" if found else "no problem found; nothing was started"]
    lines += [f"  {number}. {text}" for number, text in enumerate(found, 1)]
    return "\n".join(lines), not found


def _stages(config: RunConfig, verb: str) -> list[str]:
    """A line for each verb: its state, its rows, and what it asks of the cluster."""
    lines = []
    for one in stages_of(config, verb):
        if one == "serve":
            state, rows = "", ""
        else:
            state, is_done = _state(config, STAGE_OF[one])
            rows = "" if is_done else _rows(config, one)
        asks = "" if state.startswith("done") else _asked(needs_of_stage(config, one))
        lines.append(f"  {one:<10}{'; '.join(part for part in (state, rows, asks) if part)}")
    return lines


def _asked(needs: Sequence[Need]) -> str:
    return f"asks for {', then '.join(map(str, needs))}" if needs else ""


def _state(config: RunConfig, stage: str) -> tuple[str, bool]:
    """What is there of a stage, and whether it is finished under this configuration."""
    folder = RunFolder(config.run_dir)
    try:
        (manifest, different), started = stage_changes(config, stage), folder.started(stage)
        if manifest is not None:
            if different:
                return f"made under another configuration ({'; '.join(different)}); needs --overwrite", False
            return f"done, {manifest.num_out:,} rows", True
        if started is None or started.is_deleting:
            return "to do", False
        paths = folder.parquet_files(stage, recursive=True)
        made = sum(folder.num_rows(folder.name_of(path)) for path in paths)
        return f"begun{f', {made:,} rows made' if made else ''}", False
    except DamagedFile as error:
        return str(error), False


def _rows(config: RunConfig, verb: str) -> str:
    """How many rows the verb would read, as far as that is known before."""
    folder = RunFolder(config.run_dir)
    if verb == "prepare":
        return _questions(config)
    requests = folder.manifest("requests")
    if requests is None:
        return "rows are known after prepare"
    counts: dict[str, Any] = requests.metrics
    if verb == "generate":
        kinds = ["factual", *(["counterfactual"] if config.counterfactual_weight else [])]
        number = sum(counts.get(f"kind/{kind}", 0) for kind in kinds) * config.num_draws
        return f"{number:,} rationales to write ({' and '.join(kinds)})"
    if verb == "probe":
        return f"{counts.get('split/test', 0):,} test questions; {cost(config)}"
    split = {"train": "train", "score": "test"}.get(verb)
    if split:
        return f"{counts.get(f'split/{split}', 0):,} questions of the split {split}"
    return f"rationales of {requests.num_out:,} questions"


def _questions(config: RunConfig) -> str:
    limit = config.data.limit or MAX_COUNTED
    number = 0
    try:
        for number, _ in enumerate(read_rows(config.data), 1):
            if number > limit:
                break
    except CotrayError:
        return "rows cannot be read"
    if number > limit:
        return f"{limit:,} usable rows (data.limit)" if config.data.limit else f"more than {limit:,} rows"
    return f"{number:,} rows to read"
