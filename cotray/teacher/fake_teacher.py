"""A teacher without a model: its rationale is a function of the request alone. For trying out
pipelines and for tests of everything around the teacher."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from cotray.config import TeacherConfig
from cotray.records import QAPair, Rationale, TeacherRequest
from cotray.seeds import digest, seeded

_CLAUSES = (
    "what it is made of decides it",
    "people have seen it many times",
    "its size leaves no other way",
    "the place and the season fit",
    "that is how the parts work together",
)


class FakeTeacher:
    def __init__(self, config: TeacherConfig, *, method: str, seed: int = 0) -> None:
        self.config = config
        self.method = method

    def generate(
        self,
        requests: Sequence[TeacherRequest],
        *,
        on_finished: Callable[[int], None] = lambda num_tokens: None,
    ) -> list[Rationale]:
        time.sleep(float(self.config.engine_args.get("seconds_per_batch", 0)))
        num_draws = self.config.decoding.num_draws
        rationales = []
        for request in requests:
            for sample in range(num_draws):
                stream = (request.id, request.target_answer, self.method, *([str(sample)] if sample else []))
                text = f"It points to {request.target_answer}, because {seeded(0, *stream).choice(_CLAUSES)}."
                fields = {"rationale": text, "num_tokens": len(text.split()), "stop_reason": "greedy_stop"}
                row = request.to_row() | {"method": self.method, "teacher": "fake", "sample": sample} | fields
                rationales.append(Rationale.from_row(row))
                on_finished(rationales[-1].num_tokens)
        return rationales

    def choice_logprobs(self, pair: QAPair) -> list[float]:
        return [-float(digest(0, pair.id, choice) % 1000) for choice in pair.choices]
