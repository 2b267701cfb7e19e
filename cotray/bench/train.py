"""cotray's trainer beside a bare loop, TRL's SFTTrainer and SCOTT's padding: the same steps, taken in turns.

Every arm trains SmolLM2-135M on the same token ids, 16 factual examples a step (2 in bfloat16 where the CPU
has to emulate it, which takes ten times as long). All arms of a precision are up at once, and a step of one
begins when that of another has ended: what else the machine does falls on all alike. The first step of each
counts for its start, not for its rate. The loss of every step has to be the same in all arms.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from cotray.bench.train_arms import MODEL, PROCESSES, SEED, stage_examples, step_examples, steps_of, turns
from cotray.config import DataConfig, ModelConfig, RunConfig
from cotray.data.prepare import each_row
from cotray.data.questions import Understood
from cotray.errors import StageError
from cotray.records import Rationale
from cotray.storage.run_folder import RunFolder, schema_of

PRECISIONS = ("float32", "bfloat16")
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.02}
"""Of a step's loss, relative to the bare loop's."""
RATIOS = {
    "share_of_plain_loop": "plain",
    "speedup_over_trl": "trl",
    "speedup_over_trl_same_padding": "trl_alike",
    "speedup_over_padded": "padded",
}
NUM_TIMED = 7


class Tokens(NamedTuple):
    """What one step learns from."""

    examples: int
    total: int
    supervised: int


@dataclass
class Steps:
    """What was noted of the steps of one arm, the first of which is not timed."""

    start_s: float = 0.0
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    places: list[float] = field(default_factory=list)
    peaks_mib: list[float] = field(default_factory=list)


def bench_train(*, data: str, num_timed: int = NUM_TIMED) -> dict[str, Any]:
    """Print a table and return the figures. StageError where the losses differ."""
    folder = Path(tempfile.mkdtemp(prefix="cotray-bench-"))
    try:
        _write_examples(folder, data, num_timed + 1)
        measured, tokens = dict[str, dict[str, Steps]](), dict[str, list[Tokens]]()
        for precision in PRECISIONS:
            tokens[precision] = _tokens(folder, precision, num_timed + 1)
            measured[precision] = _measure(folder, precision, num_timed + 1)
            _print_table(precision, measured[precision], tokens[precision])
            check_losses(precision, measured[precision])
        return figures_of(measured, tokens)
    finally:
        stage_examples(folder).forget()
        shutil.rmtree(folder, ignore_errors=True)


def figures_of(
    measured: Mapping[str, Mapping[str, Steps]], tokens: Mapping[str, Sequence[Tokens]]
) -> dict[str, Any]:
    """Flat figures by precision and arm; the ratios at the top are the smallest of all precisions."""
    flat: dict[str, Any] = {}
    for precision, arms in measured.items():
        flat |= {
            f"{precision}/{name}": ratio(arms["cotray"], arms[o]) for name, o in RATIOS.items() if o in arms
        }
        for name, arm in arms.items():
            figures = _arm_figures(arm, tokens[precision])
            flat |= {f"{precision}/{name}/{key}": value for key, value in figures.items()}
    smallest = {
        name: min(flat[f"{precision}/{name}"] for precision in measured if f"{precision}/{name}" in flat)
        for name in RATIOS
    }
    first = next(iter(measured))
    return {
        **smallest,
        "padding_share": flat[f"{first}/cotray/padding_share"],
        "start_s": max(arms["cotray"].start_s for arms in measured.values()),
        **flat,
    }


def ratio(ours: Steps, theirs: Steps) -> float:
    """How many times as fast: the median over the rounds, in each of which both took the same step."""
    return statistics.median(t / o for t, o in zip(theirs.seconds[1:], ours.seconds[1:], strict=True))


def _arm_figures(arm: Steps, tokens: Sequence[Tokens]) -> dict[str, float]:
    seconds = list(zip(tokens[1:], arm.seconds[1:], strict=True))
    return {
        "examples_per_s": statistics.median(t.examples / s for t, s in seconds),
        "tokens_per_s": statistics.median(t.total / s for t, s in seconds),
        "supervised_tokens_per_s": statistics.median(t.supervised / s for t, s in seconds),
        "padding_share": 1 - sum(t.total for t in tokens) / sum(arm.places),
        "peak_mib": max(arm.peaks_mib),
        "start_s": arm.start_s,
    }


def check_losses(precision: str, arms: Mapping[str, Steps]) -> None:
    """StageError unless every step has the same loss in all arms, up to rounding."""
    for name, arm in arms.items():
        pairs = zip(arm.losses, arms["plain"].losses, strict=True)
        for step, (loss, expected) in enumerate(pairs, 1):
            if not abs(loss - expected) <= TOLERANCE[precision] * expected:
                raise StageError(
                    f"step {step}: the loss of {name} in {precision} is {loss:.5f}, and {expected:.5f} "
                    "in the bare loop; they do not learn alike, and their rates cannot be compared"
                )


def _measure(folder: Path, precision: str, num_steps: int) -> dict[str, Steps]:
    """All processes of one precision, step by step in turns."""
    notes = folder / precision
    notes.mkdir()
    for name in ("run", "stage.json"):
        (notes / name).symlink_to(folder / name)
    children: dict[str, subprocess.Popen[bytes]] = {}
    arms = {arm: Steps() for name in PROCESSES for arm, _ in turns(name, precision, 1)}
    try:
        # One after the other, so that the time to the first step is that of a process alone on the machine.
        for name in PROCESSES:
            command = [
                sys.executable,
                "-m",
                "cotray.bench.train_arms",
                name,
                precision,
                str(notes),
                str(num_steps),
            ]
            log = (notes / f"{name}.log").open("wb")
            started = time.time()
            children[name] = subprocess.Popen(command, stdout=log, stderr=log, env=_environment())
            (notes / f"{name}-0.go").touch()
            begun = _noted(notes / f"{name}-0.begun", children[name])
            start_s = begun["time"] - started
            per_step = list(turns(name, precision, 1))
            for arm, _ in per_step:
                arms[arm].start_s = start_s
            for place, (arm, _) in enumerate(per_step):
                _step(notes, name, place, children[name], arms[arm])
        for step, name in itertools.product(range(1, num_steps), PROCESSES):
            of_step = [arm for arm, number in turns(name, precision, num_steps) if number == step]
            for place, arm in enumerate(of_step):
                _step(notes, name, step * len(of_step) + place, children[name], arms[arm])
        for child in children.values():
            child.wait()
    finally:
        for child in children.values():
            child.terminate()
            child.wait()
    rows = [json.loads(line) for line in (notes / "cotray.metrics").read_text().splitlines()]
    arms["cotray"].losses = [row["loss"] for row in rows if "loss" in row][:num_steps]
    arms["cotray"].places = [row["num_places"] for row in rows if "loss" in row][:num_steps]
    return arms


def _step(notes: Path, process: str, number: int, child: subprocess.Popen[bytes], arm: Steps) -> None:
    """Let a process take its next step, and wait until it has."""
    (notes / f"{process}-{number}.go").touch()
    begun = _noted(notes / f"{process}-{number}.begun", child)
    ended = _noted(notes / f"{process}-{number}.ended", child)
    arm.seconds.append(ended["time"] - begun["time"])
    arm.peaks_mib.append(ended["peak_mib"])
    if "loss" in ended:
        arm.losses.append(ended["loss"])
        arm.places.append(ended["num_places"])


def _noted(path: Path, child: subprocess.Popen[bytes]) -> dict[str, float]:
    while not path.exists():
        if child.poll() not in (None, 0):
            name = path.name.partition("-")[0]
            text = path.with_name(f"{name}.log").read_text(errors="replace")
            raise StageError(f"bench train: {name} ended with {child.returncode}: {text[-2000:]}")
        time.sleep(0.01)
    return json.loads(path.read_text())


def _environment() -> dict[str, str]:
    """So that all arms suffer alike from what else a busy machine does."""
    return {
        **os.environ,
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_WAIT_POLICY": "passive",  # threads that spin take a core from those that they wait for
        "RAY_worker_niceness": "0",  # Ray's workers have a lower priority than other processes
    }


def _write_examples(folder: Path, data: str, num_steps: int) -> None:
    """The stage of examples, made of the questions' own rationales."""
    from cotray.stages.examples import Source, make_examples
    from cotray.training.renderers import StudentRenderer

    run = RunFolder(str(folder / "run"))
    rows = [row.to_row() for row in _rationales(data, num_steps * step_examples(PRECISIONS[0]))]
    run.write_table("rationales/part-00000.parquet", pa.Table.from_pylist(rows, schema_of(Rationale)))
    examples = make_examples(
        run,
        "examples",
        [Source("rationales", Rationale, StudentRenderer("on", SEED, ("factual",)))],
        ModelConfig(model=MODEL),
        max_length=512,
        settings={},
        input=folder.name,
        label="examples",
    )
    (folder / "stage.json").write_text(json.dumps(examples.fingerprint))


def _tokens(folder: Path, precision: str, num_steps: int) -> list[Tokens]:
    """Of each step."""
    steps = steps_of(stage_examples(folder).opened(), precision)
    parts = [list(steps(step).factual) for step in range(num_steps)]
    return [Tokens(len(p), sum(e.num_tokens for e in p), sum(sum(e.is_supervised) for e in p)) for p in parts]


def _rationales(data: str, count: int) -> list[Rationale]:
    """As if a teacher had written what the questions' authors did."""
    config = RunConfig(data=DataConfig(path=data))
    understood = (row for row in each_row(config, lambda row: row) if isinstance(row, Understood))
    pairs = [row.pair for row in itertools.islice(understood, count)]
    if len(pairs) < count:
        raise StageError(f"{data}: bench train needs {count} usable questions, and there are {len(pairs)}")
    return [
        Rationale(
            **{name: getattr(pair, name) for name in ("id", "task", "question", "choices", "answer")},
            kind="factual",
            target_answer=pair.answer,
            rationale=pair.human_rationale or "It is known to be so.",
        )
        for pair in pairs
    ]


def _print_table(precision: str, arms: Mapping[str, Steps], tokens: Sequence[Tokens]) -> None:
    names = ("step s", "min", "max", "examples/s", "tokens/s", "padding", "MiB", "start s")
    print(f"{precision:<12}" + "".join(f"{name:>11}" for name in names))
    for name, arm in arms.items():
        timed, figures = arm.seconds[1:], _arm_figures(arm, tokens)
        seconds = f"{statistics.median(timed):>11.2f}{min(timed):>11.2f}{max(timed):>11.2f}"
        rates = f"{figures['examples_per_s']:>11.2f}{figures['tokens_per_s']:>11.1f}"
        rest = f"{figures['padding_share']:>11.3f}{figures['peak_mib']:>11.0f}{arm.start_s:>11.1f}"
        print(f"{name:<12}{seconds}{rates}{rest}", flush=True)
