"""cotray bench device [--json FILE]: what one device does with the teacher and with training.

Needs torch, transformers and PyYAML alone of the larger libraries: no pydantic, no Ray, no vLLM, no network.
Models are random, made on the device in the shapes of Llama. Every figure is written as soon as it is there,
a part that fails is recorded with its error, and a part for which no time is left is recorded as skipped.
Without a GPU the shapes are tiny.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cotray.bench.device_common import bench_limits, device_name, random_llama
from cotray.bench.device_teacher import bench_coupling, bench_equality, bench_rates
from cotray.bench.device_training import bench_training

Figures = dict[str, Any]


class Report:
    """Figures by the name of their part, kept in a file from part to part."""

    def __init__(self, target: str | None, budget_s: float) -> None:
        self.target, self.budget_s, self.started = target, budget_s, time.monotonic()
        self.figures: dict[str, Figures] = {}

    def part(self, name: str, work: Callable[[], Figures]) -> Figures:
        began = time.monotonic()
        if began - self.started > self.budget_s:
            found = {"skipped": f"the budget of {self.budget_s:.0f} s was over before it began"}
        else:
            try:
                found = work()
            except Exception as error:  # the next part is still worth its time
                found = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        found = {**found, "part_s": time.monotonic() - began}
        self.figures[name] = found
        shown = {key: value for key, value in found.items() if key != "traceback"}
        print(f"{name}: {json.dumps(shown, default=str)}", flush=True)
        if "skipped" in found:
            print(f"SKIPPED {name}: {found['skipped']}", file=sys.stderr, flush=True)
        if self.target:
            Path(self.target).write_text(json.dumps(self.figures, indent=1) + "\n", encoding="utf-8")
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return found

    @property
    def has_failed(self) -> bool:
        return any("error" in part or "skipped" in part for part in self.figures.values())

    def markdown(self, device: torch.device) -> str:
        """Of each kind of part a table, with a row for each part and a column for each number."""
        kinds: dict[str, dict[str, Figures]] = defaultdict(dict)
        for name, found in self.figures.items():
            kinds[name.partition(" ")[0].strip(",")][name] = found
        lines = [f"## {device_name(device)}", ""]
        for parts in kinds.values():
            plain = {name: _in_cells(found) for name, found in parts.items()}
            columns = list(dict.fromkeys(key for found in plain.values() for key in found))
            lines += [_row(["part", *columns]), _row(["---"] * (1 + len(columns)))]
            lines += [_row([n, *(found.get(c, "") for c in columns)]) for n, found in plain.items()]
            lines.append("")
        return "\n".join(lines)


def _in_cells(found: Figures) -> dict[str, str]:
    """What fits into a cell; lists as their first and last entry."""
    cells = {}
    for key, value in found.items():
        if isinstance(value, float):
            cells[key] = f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
        elif isinstance(value, list):
            cells[key] = f"{value[0]:.4g} to {value[-1]:.4g}"
        elif not isinstance(value, dict) and key != "traceback":
            cells[key] = str(value).replace("|", "/").replace("\n", " ")
    return cells


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main(argv: Sequence[str] | None = None, *, prog: str = "cotray bench device") -> int:
    parser = argparse.ArgumentParser(prog=prog, description="Measure teacher and training on this device.")
    parser.add_argument("--json", metavar="FILE", help="write the figures, part by part")
    parser.add_argument(
        "--budget-s", type=float, default=400, help="no part begins after so many seconds (default 400)"
    )
    parser.add_argument(
        "--shapes",
        choices=["auto", "tiny", "full"],
        default="auto",
        help="tiny: two layers, for a look whether all parts run; full: up to 8 B parameters, for a GPU of "
        "80 GB; auto: full on a GPU (default)",
    )
    options = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    report = Report(options.json, options.budget_s)
    is_full = options.shapes == "full" or (options.shapes == "auto" and device.type == "cuda")
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("COTRAY_CACHE", folder)
        (_bench_full if is_full else _bench_tiny)(report, device)
    print(report.markdown(device))
    return 1 if report.has_failed else 0


def _bench_full(report: Report, device: torch.device) -> None:
    limits = report.part("limits", lambda: bench_limits(device))
    report.part("equality", lambda: bench_equality(device, "135M", 16, 4))
    for num_pairs in (64, 512):
        _coupling(report, num_pairs, 152_064, device, limits)
    _teacher(report, "1B", (8, 64, 512), device, limits)
    bench_training(report.part, lambda dtype: random_llama("1B", device, dtype), 16, 8, device)
    _teacher(report, "8B", (8, 64, 256), device, limits)
    _teacher(report, "135M", (64, 512), device, limits)


def _bench_tiny(report: Report, device: torch.device) -> None:
    torch.set_num_threads(1)  # such small tensors only wait for more
    limits = report.part("limits", lambda: bench_limits(device))
    report.part("equality", lambda: bench_equality(device, "tiny", 6, 3))
    _coupling(report, 4, 512, device, limits)
    _teacher(report, "tiny", (2, 4), device, limits)
    bench_training(report.part, lambda dtype: random_llama("tiny", device, dtype), 2, 2, device)


def _coupling(report: Report, num_pairs: int, vocabulary: int, device: torch.device, limits: Figures) -> None:
    name = f"coupling, {num_pairs} pairs x {vocabulary}"
    report.part(name, lambda: bench_coupling(num_pairs, vocabulary, device, limits))


def _teacher(report: Report, shape: str, sizes: Sequence[int], device: torch.device, limits: Figures) -> None:
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32

    def rates(num_pairs: int) -> Figures:
        # Made anew for every size, so that a failure of one leaves nothing to the next.
        return bench_rates(random_llama(shape, device, dtype), num_pairs, device, limits)

    for num_pairs in sizes:
        report.part(f"teacher {shape}, {num_pairs} pairs", partial(rates, num_pairs))
