"""What every teacher engine offers, and the one place that picks one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from cotray.config import TeacherConfig
from cotray.records import QAPair, Rationale, TeacherRequest


class Teacher(Protocol):
    def generate(
        self, requests: Sequence[TeacherRequest], *, on_finished: Callable[[int], None] = ...
    ) -> list[Rationale]:
        """One Rationale per request, in order; `on_finished` hears each one's number of tokens."""
        ...

    def choice_logprobs(self, pair: QAPair) -> list[float]:
        """log p(choice | question) for every choice."""
        ...


def build_teacher(config: TeacherConfig, *, method: str) -> Teacher:
    """Load the configured engine. `method` is greedy or contrast-..., without "+counterfactual"."""
    match config.engine:
        case "transformers":
            from cotray.teacher.transformers_engine import TransformersTeacher

            return TransformersTeacher(config, method=method)
        case "fake":
            from cotray.teacher.fake import FakeTeacher

            return FakeTeacher(config, method=method)
