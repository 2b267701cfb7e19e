"""What HTTP and Ray Serve add to a student: beside the same engine called directly in this process.

The student is `--model` as it is, on the transformers engine, on one replica with as many torch threads as
the engine here. The two never run at the same time: they take turns by question (one at a time) or by round
(saturated). Live answers are not simulated, so that the simulator's work is in no figure.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cotray.bench.http_load import LoadProcess, Outcome
from cotray.bench.memory import watched_memory
from cotray.bench.served import served, served_config
from cotray.config import RunConfig
from cotray.pools.progress import progress_bar
from cotray.prompts.student import trained_prompt
from cotray.records import QAPair, Reply
from cotray.scoring.student import Student

BATCH_SIZE = 8
WORKERS = 2 * BATCH_SIZE
"""Of the saturating closed loop, and `max_queued`: a batch in the model and one that waits."""
NUM_QUESTIONS = 32
"""Of one saturated round."""
NUM_ALONE = 12
"""Questions asked one at a time, with nothing else under way."""
OVERLOAD_S = 60
PROCESSES = {
    "proxy": "ray::ProxyActor",
    "ingress": "ray::ServeReplica:cotray:ingress",
    "student": "ray::ServeReplica:cotray:student",
}


@dataclass
class Setting:
    """What one way of asking gave."""

    name: str
    latencies_ms: list[float] = field(default_factory=list)
    """Of the answered."""
    rates: list[float] = field(default_factory=list)
    """Answers/s of every round."""
    num_refused: int = 0
    num_failed: int = 0

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)

    def percentile(self, percent: float) -> float:
        return float(np.percentile(self.latencies_ms, percent)) if self.latencies_ms else float("nan")

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """One round; its rate is from the first request to the last response."""
        answered = [outcome for outcome in outcomes if outcome.is_answered]
        refused = [outcome for outcome in outcomes if outcome.is_refused]
        self.latencies_ms += [outcome.latency_ms for outcome in answered]
        self.num_refused += len(refused)
        self.num_failed += len(outcomes) - len(answered) - len(refused)
        seconds = max(outcome.end for outcome in outcomes) - min(outcome.start for outcome in outcomes)
        self.rates.append(len(answered) / seconds)

    def line(self) -> str:
        p50, p95, p99 = (self.percentile(percent) for percent in (50, 95, 99))
        return (
            f"{self.name:<18}{self.rate:>11.3f}{p50:>10.1f}{p95:>10.1f}{p99:>10.1f}"
            f"{len(self.latencies_ms):>10}{self.num_refused:>9}{self.num_failed:>8}"
        )


def bench_serve(*, model: str, pairs: Sequence[QAPair], num_rounds: int) -> dict[str, Any]:
    """Print the table and return the figures; `answers_equal`: HTTP gives what the engine gives."""
    folder = Path(tempfile.mkdtemp(prefix="ct-", dir="/tmp"))
    print(f"load average before: {os.getloadavg()[0]:.2f} on {os.cpu_count()} CPUs")
    try:
        config = _config(folder / "run", model)
        with served(config, folder):
            bench = _Bench(config, pairs, _threads_of_a_replica(config))
            with progress_bar("bench serve", total=NUM_ALONE + 2 * num_rounds + 1, unit="part") as bar:
                bench.run(num_rounds, bar)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return bench.figures()


def _config(run_dir: Path, model: str) -> RunConfig:
    serving = {
        "api_keys": "open",
        "live_share": 0,
        "max_queued": WORKERS,
        "student": {"max_batch_size": BATCH_SIZE, "replicas": {"min": 1, "max": 1}},
    }
    return served_config(run_dir, model, max_new_tokens=24, serving=serving)


def _threads_of_a_replica(config: RunConfig) -> int:
    import ray

    probe: Any = ray.remote(num_cpus=config.serving.student.num_cpus)(_torch_threads)
    return ray.get(probe.remote())


def _torch_threads() -> int:
    import torch

    return torch.get_num_threads()


class _Bench:
    """The engine here, the address of the one there, and what was measured of both."""

    def __init__(self, config: RunConfig, pairs: Sequence[QAPair], num_threads: int) -> None:
        import torch

        torch.set_num_threads(num_threads)
        self.num_threads, self.pairs = num_threads, pairs
        self.url = f"http://127.0.0.1:{config.serving.port}/v1/answer"
        self.student = Student(
            f"{config.run_dir}/student",
            config=config.scoring,
            prompt=trained_prompt(config.student.training.tags),
            seed=config.seed,
            method=config.method,
        )
        names = ("direct alone", "served alone", "direct saturated", "served saturated", "overload")
        self.settings = {name: Setting(name) for name in names}
        self.expected: dict[int, Reply] = {}
        self.num_different = 0
        self.extra_ms: list[float] = []
        """Alone: served - direct, question by question."""
        self.memory: dict[str, list[float]] = {}

    def run(self, num_rounds: int, bar: Any) -> None:
        self._warm_up()
        self._alone(bar)
        for _ in range(num_rounds):
            self._direct_round()
            bar.update()
            self._served_round()
            bar.update()
        self._overload(2 * self.settings["served saturated"].rate)
        bar.update()

    def _warm_up(self) -> None:
        self._respond(range(BATCH_SIZE))
        self._load("closed", range(WORKERS), "--workers", str(WORKERS))

    def _alone(self, bar: Any) -> None:
        direct, outcomes = self.settings["direct alone"], []
        with LoadProcess(self.url, "closed", "--most", str(NUM_ALONE + 1), "--seconds", "300") as load:
            load.ask(_body(self.pairs[0]))  # connects
            for index in range(NUM_ALONE):
                latency_ms = 1000 * self._respond([index])
                outcomes.append(load.ask(_body(self.pairs[index])))
                direct.latencies_ms.append(latency_ms)
                self.extra_ms.append(outcomes[-1].latency_ms - latency_ms)
                self._compare(index, outcomes[-1])
                bar.update()
        direct.rates = [1000 / statistics.mean(direct.latencies_ms)]
        served = self.settings["served alone"]
        served.add(outcomes)
        # The load waits between two questions.
        served.rates = [1000 / statistics.mean(served.latencies_ms)]

    def _direct_round(self) -> None:
        direct, began = self.settings["direct saturated"], time.perf_counter()
        for start in range(0, len(self.pairs), BATCH_SIZE):
            batch = range(len(self.pairs))[start : start + BATCH_SIZE]
            direct.latencies_ms += [1000 * self._respond(batch)] * len(batch)
        direct.rates.append(len(self.pairs) / (time.perf_counter() - began))

    def _served_round(self) -> None:
        outcomes = self._load("closed", range(len(self.pairs)), "--workers", str(WORKERS))
        self.settings["served saturated"].add(outcomes)
        for outcome in outcomes:
            self._compare(outcome.index, outcome)

    def _overload(self, rate: float) -> None:
        with watched_memory(PROCESSES, self.memory):
            outcomes = self._load(
                "open", range(len(self.pairs)), "--rate", str(rate), "--seconds", str(OVERLOAD_S)
            )
        self.settings["overload"].add(outcomes)
        for outcome in outcomes:
            self._compare(outcome.index % len(self.pairs), outcome)

    def _respond(self, indices: Sequence[int]) -> float:
        """Seconds of one call of the engine."""
        began = time.perf_counter()
        replies = self.student.respond([self.pairs[index] for index in indices], [None] * len(indices))
        seconds = time.perf_counter() - began
        self.expected |= dict(zip(indices, replies, strict=True))
        return seconds

    def _load(self, loop: str, indices: Sequence[int], *arguments: str) -> list[Outcome]:
        bodies = [_body(self.pairs[index]) for index in indices]
        with LoadProcess(self.url, loop, "--most", "20000", *arguments) as load:
            return load.run(bodies)

    def _compare(self, index: int, outcome: Outcome) -> None:
        expected = self.expected[index]
        given = outcome.reply.get("rationale"), outcome.reply.get("answer")
        self.num_different += outcome.is_answered and given != (expected.rationale, expected.answer)

    def figures(self) -> dict[str, Any]:
        """Printed too."""
        _, _, direct, served, overload = self.settings.values()
        num_asked = len(overload.latencies_ms) + overload.num_refused + overload.num_failed
        low, high = np.percentile(self.extra_ms, [25, 75])
        figures: dict[str, Any] = {
            "overhead_ms_c1": statistics.median(self.extra_ms),
            "overhead_ms_c1_p25": float(low),
            "overhead_ms_c1_p75": float(high),
            "overhead_ms_saturated": 1000 / served.rate - 1000 / direct.rate,
            "throughput_share": served.rate / direct.rate,
            "overload_answered": len(overload.latencies_ms) / num_asked,
            "overload_refused": overload.num_refused / num_asked,
            "overload_p99_ratio": overload.percentile(99) / served.percentile(99),
            "overload_memory_ratio": _growth([sum(each) for each in zip(*self.memory.values(), strict=True)]),
        }
        print(f"{self.num_threads} torch threads in both engines, batches of {BATCH_SIZE}, {WORKERS} workers")
        header = "".join(f"{name:>10}" for name in ("p50 ms", "p95 ms", "p99 ms", "answered"))
        print(f"{'':<18}{'answers/s':>11}{header}{'refused':>9}{'failed':>8}")
        for setting in self.settings.values():
            print(setting.line())
        for name, sizes in self.memory.items():
            print(f"memory of {name}: {sizes[0]:.0f} MiB before, at most {max(sizes):.0f} in the overload")
        for name, value in figures.items():
            print(f"{name}: {value:.3f}")
        print(f"answers that differ from the engine's: {self.num_different}")
        for setting in self.settings.values():
            key = setting.name.replace(" ", "_")
            figures[f"{key}_rps"] = setting.rate
            figures |= {f"{key}_p{percent}_ms": setting.percentile(percent) for percent in (50, 95, 99)}
        figures["failed"] = sum(setting.num_failed for setting in self.settings.values())
        return figures | {"answers_equal": not self.num_different, "torch_threads": self.num_threads}


def _body(pair: QAPair) -> dict[str, Any]:
    return {"question": pair.question, "choices": list(pair.choices), "task": pair.task}


def _growth(sizes: Sequence[float]) -> float:
    return max(sizes) / sizes[0]
