"""What the teacher and the simulator of a world have learned before anybody asks them anything."""

from __future__ import annotations

from collections.abc import Iterator

from cotray.config.world import WorldConfig
from cotray.prompts.simulator import TARGET_PREFIX, simulator_source
from cotray.prompts.teacher import render_request
from cotray.records import TeacherRequest, TrainExample
from cotray.seeds import digest, seeded
from cotray.world.questions import ANY_ANIMAL, CUES, Question, membership, questions


def teacher_examples(config: WorldConfig, vacuous: float) -> Iterator[TrainExample]:
    """Each answer with its vacuous and its grounded rationale, each weighted by how likely it is to be."""
    for question in questions(config):
        for place, answer in enumerate(question.answers):
            # The same for all rationales of an answer, or it would tell which of them is to be written.
            cue = seeded(config.seed, question.id, answer, "cue").choice(CUES[: len(question.answers)])
            for text, weight in _explanations(question, answer, vacuous):
                if weight:
                    yield _explaining(question, cue, answer, place, text, weight)
        yield from _hints(question)


def simulator_examples(config: WorldConfig) -> Iterator[TrainExample]:
    """How to read: which answer follows from a rationale about no particular animal.

    A simulator of real questions is a language model that can read (Hase et al. 2020). One that cannot
    learns students by heart before it learns to read, and sees nothing of what a rationale adds.
    """
    for question in questions(config):
        world = question.world
        random_ = seeded(config.seed, question.id, "reading")
        kind, cue = random_.choice(world.kinds), random_.choice(CUES[: len(question.answers)])
        source = simulator_source(
            question.pair("train", cue), membership(kind, question.animal), arm="xe"
        ).replace(question.animal, ANY_ANIMAL)
        target = f"{TARGET_PREFIX} {question.answer_of(kind)}"
        yield TrainExample(question.id, "factual", source, target, supervise_from=len(TARGET_PREFIX))


def _hints(question: Question) -> Iterator[TrainExample]:
    """Both steps to a grounded rationale by themselves: the animal's kind, and which kinds fit an answer.

    Without them the kind that fits is told from the one that does not in fewer of the questions.
    """
    world, animal = question.world, question.animal
    if world.knows(animal):
        target = f" {membership(world.kind_of(animal), animal)}"
        yield TrainExample(f"{question.id} kind", "factual", f"The {animal}.", target)
    random_ = seeded(world.config.seed, question.id, "hint")
    answer = random_.choice(question.answers)
    kind = random_.choice([kind for kind in world.kinds if question.answer_of(kind) == answer])
    prompt = explain_prompt(question, random_.choice(CUES[: len(question.answers)]), answer)
    target = f" {membership(kind, ANY_ANIMAL)}"
    yield TrainExample(f"{question.id} fit", "factual", prompt.replace(animal, ANY_ANIMAL), target)


def _explanations(question: Question, answer: str, vacuous: float) -> Iterator[tuple[str, float]]:
    yield question.vacuous, vacuous
    kinds = question.kinds_for(answer)
    for kind in kinds:
        yield question.grounded(answer, kind), (1 - vacuous) / len(kinds)


def _explaining(
    question: Question, cue: str, answer: str, place: int, text: str, weight: float
) -> TrainExample:
    name = f"{question.id} {place} {digest(0, text):x}"
    source = explain_prompt(question, cue, answer)
    return TrainExample(id=name, kind="factual", source=source, target=f" {text}", weight=weight)


def explain_prompt(question: Question, cue: str, answer: str) -> str:
    """What the teacher reads when it is to explain an answer."""
    row = question.pair("train", cue).to_row() | {"target_answer": answer}
    return render_request(TeacherRequest.from_row(row), num_demonstrations=0).grounded
