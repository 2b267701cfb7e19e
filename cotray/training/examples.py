"""What a student learns from: rationales as examples, with those that are too long kept apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from cotray.config import ModelConfig, RunConfig
from cotray.prompts.student import student_example
from cotray.records import Rationale, TrainExample
from cotray.seeds import seeded
from cotray.storage.run_folder import DeadLetter

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WeightOf = Callable[[Rationale], float]
"""What a rationale's loss is multiplied by; 0 leaves it out."""


class Renderer:
    """Renders rationales for one student; `too_long` collects what exceeds training.max_length."""

    def __init__(self, config: RunConfig) -> None:
        self.training = config.student.training
        self.seed = self.training.seed_or(config.seed)
        self.tokenizer, self.is_encoder_decoder = load_tokenizer_of(config.student)
        self.too_long: list[TrainExample] = []

    def __call__(self, rows: Iterable[Rationale], weight_of: WeightOf) -> list[TrainExample]:
        """One example per row that has a weight and fits."""
        from cotray.training.batches import split_by_length

        rendered = [
            replace(
                student_example(
                    row,
                    tags=self.training.tags,
                    seed=self.seed,
                    is_encoder_decoder=self.is_encoder_decoder,
                ),
                weight=weight_of(row),
            )
            for row in rows
            if weight_of(row) > 0
        ]
        kept, too_long = split_by_length(
            rendered,
            self.tokenizer,
            is_encoder_decoder=self.is_encoder_decoder,
            max_length=self.training.max_length,
        )
        self.too_long.extend(too_long)
        return kept


def with_shuffled_rationales(rows: Sequence[Rationale], *, seed: int) -> list[Rationale]:
    """Each row with the rationale of another one of its split and kind; their order does not matter."""
    groups: dict[tuple[str, str], list[Rationale]] = {}
    for row in sorted(rows, key=_key):
        groups.setdefault((row.split, row.kind), []).append(row)
    shuffled = []
    for name, group in groups.items():
        order = seeded(seed, *name, "shuffled rationales").sample(range(len(group)), len(group))
        # A step along one circle through all: where there are two or more, nobody keeps its own.
        for place, position in enumerate(order):
            other = group[order[place - 1]]
            shuffled.append(replace(group[position], rationale=other.rationale))
    return shuffled


def weight_lookup(rows: Sequence[Rationale], weights: Sequence[float] | None) -> WeightOf:
    """The weight of each row; None = all 1."""
    known = dict(zip(map(_key, rows), weights or [1.0] * len(rows), strict=True))
    return lambda row: known[_key(row)]


def too_long_letters(stage: str, examples: Sequence[TrainExample]) -> list[DeadLetter]:
    return [
        DeadLetter(stage, e.id, f"longer than training.max_length ({e.kind})", e.source + e.target)
        for e in examples
    ]


def load_tokenizer_of(model: ModelConfig) -> tuple[PreTrainedTokenizerBase, bool]:
    """The model's tokenizer, and whether it is an encoder-decoder; loads no weights."""
    from transformers import AutoConfig

    from cotray.models.loading import load_tokenizer
    from cotray.models.locations import model_path

    tokenizer = load_tokenizer(model.model, revision=model.revision)
    config = AutoConfig.from_pretrained(model_path(model.model), revision=model.revision)
    return tokenizer, bool(config.is_encoder_decoder)


def _key(row: Rationale) -> tuple[str, str, int]:
    return row.kind, row.id, row.sample
