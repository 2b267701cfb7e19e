"""What a model reads that answers and explains without training: demonstrations that reason first.

    Q: {question}
    A: {rationale} So the answer is {answer}.

The prompt ends after "A:"; rationale and answer are its continuation up to the first line break.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from cotray.prompts.student import ANSWER_PHRASE, parse_student
from cotray.prompts.teacher import Demonstrations, demonstrations, question_text
from cotray.records import QAPair, Task
from cotray.seeds import digest


@dataclass(frozen=True)
class FewShotPrompt:
    """Of an untrained decoder-only model."""

    num_demonstrations: int
    own: Demonstrations | None = None
    """The user's demonstrations."""
    forced: str = ""
    ends_with_line: bool = True

    def source(self, pair: QAPair) -> str:
        blocks = [
            f"Q: {question_text(pair.task, d['question'], d['choices'])}\n"
            f"A: {d['rationale'].strip()}{ANSWER_PHRASE} {d['answer']}.\n\n"
            for d in demonstrations(pair.task, self.own)[: self.num_demonstrations]
        ]
        return f"{''.join(blocks)}Q: {question_text(pair.task, pair.question, pair.choices)}\nA:"

    def prefix(self, rationale: str, *, is_encoder_decoder: bool) -> str:
        return f" {rationale.strip()}{ANSWER_PHRASE}" if rationale.strip() else ANSWER_PHRASE

    def parse(self, text: str) -> tuple[str, str]:
        return parse_student(next(iter(text.strip().splitlines()), ""), tag="")

    @property
    def version(self) -> str:
        """Changes with anything in the prompt that is not the question."""
        probes = [QAPair("", task, "Q?", ("a", "b"), "a") for task in get_args(Task)]
        return f"{digest(0, *map(self.source, probes)):016x}"
