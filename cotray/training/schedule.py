"""Learning rate: linear warm-up, then linear decay to 0 at the last step.

docs/explanation/method.md#learning-rate-and-early-stopping
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cotray.config import TrainingConfig


@dataclass(frozen=True)
class Schedule:
    """`learning_rate(k)` is the rate of the optimizer step that follows k finished ones."""

    peak: float
    num_warmup_steps: int
    num_steps: int

    def learning_rate(self, step: int) -> float:
        if step < self.num_warmup_steps:
            return self.peak * step / self.num_warmup_steps
        return self.peak * max(0, self.num_steps - step) / max(1, self.num_steps - self.num_warmup_steps)


def build_schedule(config: TrainingConfig, *, num_steps_per_epoch: int) -> Schedule:
    num_steps = num_steps_per_epoch * config.epochs
    return Schedule(config.learning_rate, int(config.warmup_fraction * num_steps), num_steps)
