"""What the simulator reads (after Hase et al. 2020): the question, the rationale, or both.

    {question} The choices are a, b and c. My reasoning: {rationale}
    The answer is: {answer}

Without x the question is left out but the choices stay; without e everything after them is left out.
"""

from __future__ import annotations

from typing import Literal, get_args

from cotray.prompts.teacher import demonstrations
from cotray.records import QAPair, StudentAnswer, Task, TrainExample
from cotray.seeds import digest

Arm = Literal["x", "e", "xe"]
TARGET_PREFIX = "The answer is:"


def simulator_source(pair: QAPair, rationale: str, *, arm: Arm) -> str:
    parts = [pair.question.strip()] if "x" in arm else []
    if pair.choices:
        *others, last = pair.choices
        parts.append(f"The choices are {', '.join(others)} and {last}.")
    if "e" in arm:
        parts.append(f"My reasoning: {rationale.strip()}")
    return " ".join(parts) + "\n"


def simulator_example(answer: StudentAnswer, *, drop_x: bool, drop_e: bool) -> TrainExample:
    """Learn to predict the student's answer; the prefix is not supervised."""
    arm: Arm = "e" if drop_x else "x" if drop_e else "xe"
    return TrainExample(
        id=answer.id,
        kind="factual",
        source=simulator_source(answer, answer.rationale, arm=arm),
        target=f"{TARGET_PREFIX} {answer.student_answer}",
        supervise_from=len(TARGET_PREFIX),
    )


def simulator_prompt_version(mode: Literal["trained", "prompted"]) -> str:
    """Changes with anything in what a simulator reads that is not question, rationale or answer."""
    arms: tuple[Arm, ...] = get_args(Arm)
    probes = [QAPair("", task, "Q?", ("a", "b"), "a") for task in get_args(Task)]
    source = simulator_source if mode == "trained" else prompted_source
    texts = [source(probe, "R.", arm=arm) for probe in probes for arm in arms]
    return f"{digest(0, TARGET_PREFIX, *texts):016x}"


def prompted_source(pair: QAPair, rationale: str, *, arm: Arm, num_demonstrations: int = 4) -> str:
    """For an untrained simulator: demonstrations of the same task in the same arm come first."""
    blocks = []
    for index, d in enumerate(demonstrations(pair.task)[:num_demonstrations]):
        demonstration = QAPair(str(index), pair.task, d["question"], tuple(d["choices"]), d["answer"])
        source = simulator_source(demonstration, d["rationale"], arm=arm)
        blocks.append(f"{source}{TARGET_PREFIX} {d['answer']}\n\n")
    return "".join(blocks) + simulator_source(pair, rationale, arm=arm)
