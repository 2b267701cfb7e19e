"""People as the teacher: the rationale is the one that comes with the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cotray.records import QAPair, Rationale, TeacherRequest

NONE = "no human rationale: give this question a reference_rationale or facts, or choose another method"


class HumanTeacher:
    def generate(
        self,
        requests: Sequence[TeacherRequest],
        *,
        on_finished: Callable[[int], None] = lambda num_tokens: None,
    ) -> list[Rationale]:
        """As of `Teacher`; a question without a rationale gets an error."""
        rationales = []
        for request in requests:
            text = request.human_rationale.strip()
            fields = {"rationale": text, "method": "human", "teacher": "human", "error": "" if text else NONE}
            rationales.append(Rationale.from_row(request.to_row() | fields))
            on_finished(0)
        return rationales

    def choice_logprobs(self, pair: QAPair) -> list[float]:
        raise NotImplementedError("people rank no answers: method human perturbs with a wrong one")
