"""The simulator: an observer that predicts the student's answer from x, from e, and from both."""

from __future__ import annotations

from collections.abc import Sequence

from cotray.inference.likelihood import Context
from cotray.models.loading import load_for_inference
from cotray.prompts.simulator import TARGET_PREFIX, Arm, prompted_source, simulator_source
from cotray.records import Simulation, StudentAnswer
from cotray.scoring.student import choose_or_write

ARMS: tuple[Arm, ...] = ("x", "e", "xe")


class Simulator:
    """`model` is the trained simulator's folder, or any language model for mode `prompted`."""

    def __init__(self, model: str, *, mode: str, revision: str = "main", dtype: str = "auto") -> None:
        self.model, self.tokenizer = load_for_inference(model, revision=revision, dtype=dtype)
        self.render = simulator_source if mode == "trained" else prompted_source

    def simulate(self, answers: Sequence[StudentAnswer]) -> list[Simulation]:
        """One Simulation per answer: the likeliest choice, or written text for open questions."""
        predicted = {arm: self._predict(answers, arm) for arm in ARMS}
        return [
            Simulation.from_row(a.to_row() | {f"sim_{arm}": predicted[arm][index] for arm in ARMS})
            for index, a in enumerate(answers)
        ]

    def _predict(self, answers: Sequence[StudentAnswer], arm: Arm) -> list[str]:
        contexts = [
            Context(
                self.render(a, a.rationale, arm=arm), TARGET_PREFIX, [f" {choice}" for choice in a.choices]
            )
            for a in answers
        ]
        return choose_or_write(self.model, self.tokenizer, contexts, answers)
