"""The batched transformers teacher beside the one-pair loop and plain greedy decoding, in float32.

One round runs all three; the loop takes a different share of the questions in each round, so that over
the rounds its tokens are compared for every question. Rates are rationale tokens per second.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cotray.config import DataConfig, DecodingConfig, RunConfig, TeacherConfig
from cotray.data.perturbation import Source, requests_of
from cotray.data.prepare import each_row
from cotray.errors import DataError
from cotray.models.loading import load_for_inference
from cotray.pools.progress import progress_bar
from cotray.prompts.teacher import render_request
from cotray.records import QAPair, TeacherRequest
from cotray.teacher.one_pair_loop import one_pair_loop
from cotray.teacher.transformers_teacher import TransformersTeacher


@dataclass
class Measured:
    """Tokens per second of each round."""

    name: str
    rates: list[float] = field(default_factory=list)
    num_tokens: int = 0
    seconds: float = 0.0

    def add(self, num_tokens: int, seconds: float) -> None:
        self.rates.append(num_tokens / seconds)
        self.num_tokens += num_tokens
        self.seconds += seconds

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)


def bench_teacher(
    *, model: str, requests: Sequence[TeacherRequest], num_rounds: int, max_pairs: int
) -> dict[str, Any]:
    """Print the table and return the figures; `tokens_equal` is over all questions."""
    config = TeacherConfig(
        model=model,
        dtype="float32",
        max_pairs=max_pairs,
        record_scores=True,
        decoding=DecodingConfig(max_new_tokens=64),
    )
    contrast = TransformersTeacher(config, method="contrast-wrong")
    greedy = TransformersTeacher(config, method="greedy")
    reference = load_for_inference(model, dtype="float32")
    # The first pass computes the demonstrations once and warms everything up.
    contrast.generate(requests[:2]), greedy.generate(requests[:2])
    measured = {name: Measured(name) for name in ("one-pair loop", "batched contrast", "batched greedy")}
    num_equal = 0
    with progress_bar("bench teacher", total=len(requests) + 2 * num_rounds, unit="part") as bar:
        for round_ in range(num_rounds):
            rationales = _timed(measured["batched contrast"], contrast, requests)
            bar.update()
            _timed(measured["batched greedy"], greedy, requests)
            bar.update()
            share = range(round_, len(requests), num_rounds)
            loop = measured["one-pair loop"]
            started, num_tokens = time.perf_counter(), 0
            for index in share:
                tokens = _loop_tokens(reference, requests[index], config, contrast.decoding.plausibility)
                num_tokens += len(tokens)
                num_equal += tokens == rationales[index].tokens
                bar.update()
            loop.add(num_tokens, time.perf_counter() - started)
    rates = {name: m.rate for name, m in measured.items()}
    _print_table(list(measured.values()), num_rounds)
    print(f"tokens equal to the loop's: {num_equal} of {len(requests)} questions")
    return {
        "speedup_over_loop": rates["batched contrast"] / rates["one-pair loop"],
        "share_of_greedy": rates["batched contrast"] / rates["batched greedy"],
        "tokens_equal": num_equal == len(requests),
        "questions": len(requests),
        "tokens_per_rationale": measured["batched contrast"].num_tokens / num_rounds / len(requests),
        "loop_tokens_per_s": rates["one-pair loop"],
        "contrast_tokens_per_s": rates["batched contrast"],
        "greedy_tokens_per_s": rates["batched greedy"],
    }


def teacher_requests(data: str, num_questions: int) -> list[TeacherRequest]:
    """The factual requests of the first usable questions; DataError where there are none."""
    config = RunConfig(data=DataConfig(path=data))
    source = Source(config.seed)
    rows = (row for row in each_row(config, lambda question: question.pair) if isinstance(row, QAPair))
    requests = [requests_of(pair, "wrong", source)[0] for pair in itertools.islice(rows, num_questions)]
    if not requests:
        raise DataError(f"{data}: no usable question; `cotray init` with it says what its rows are")
    return requests


def _timed(measured: Measured, teacher: TransformersTeacher, requests: Sequence[TeacherRequest]) -> list[Any]:
    started = time.perf_counter()
    rationales = teacher.generate(requests)
    measured.add(sum(r.num_tokens for r in rationales), time.perf_counter() - started)
    return rationales


def _loop_tokens(
    reference, request: TeacherRequest, config: TeacherConfig, plausibility: float
) -> tuple[str, ...]:
    model, tokenizer = reference
    prompt = render_request(request, num_demonstrations=config.num_demonstrations)
    tokens, _ = one_pair_loop(
        model,
        tokenizer,
        prompt.grounded,
        prompt.contrast,
        weight=config.decoding.weight,
        plausibility=plausibility,
        max_new_tokens=config.decoding.max_new_tokens,
    )
    return tuple(tokenizer.decode([token]) for token in tokens)


def _print_table(rows: Sequence[Measured], num_rounds: int) -> None:
    print(
        f"{'':<20}{'tokens/s':>10}{'min':>9}{'max':>9}{'seconds':>10}{'tokens':>9}  (median of {num_rounds})"
    )
    for m in rows:
        print(
            f"{m.name:<20}{m.rate:>10.1f}{min(m.rates):>9.1f}{max(m.rates):>9.1f}{m.seconds:>10.1f}{m.num_tokens:>9}"
        )
    loop, contrast, greedy = rows
    print(f"speed-up over the loop: {contrast.rate / loop.rate:.1f}")
    print(f"share of greedy: {contrast.rate / greedy.rate:.2f}")
