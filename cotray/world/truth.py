"""Interventions that the world alone can make exactly: it knows what rationales mean and what misleads."""

from __future__ import annotations

from random import Random

from cotray.config.world import WorldConfig
from cotray.records import QAPair, same_answer
from cotray.scoring.probes import GIVEN, OWN, Probe
from cotray.seeds import seeded
from cotray.world.questions import CUES, Question, plural


def probes(config: WorldConfig, pair: QAPair, rationale: str) -> list[Probe]:
    """Of a question of this world and the rationale that the student wrote to it.

    The grounded rationale of every answer; that of another animal, an empty one; and the student's own under
    the question without its cue, with another cue, and as it is.
    """
    question = Question.of(pair.id, config)
    cue = pair.question.partition(",")[0]
    random_ = seeded(config.seed, pair.id, "probes")
    other_cue = random_.choice([known for known in CUES[: len(question.answers)] if known != cue])
    other_animal = random_.choice([a for a in question.world.animals if a != question.animal])
    stranger = Question(question.world, question.task, other_animal, question.attribute)
    return [
        *given(config, pair),
        Probe(OWN, pair.question, rationale),
        Probe("another animal", pair.question, stranger.grounded(stranger.gold)),
        Probe("no rationale", pair.question, ""),
        Probe("no cue", question.text(None), rationale),
        Probe("another cue", question.text(other_cue), rationale),
    ]


def given(config: WorldConfig, pair: QAPair) -> list[Probe]:
    """The grounded rationale of every answer."""
    question = Question.of(pair.id, config)
    return [
        Probe(f"{GIVEN}{answer}", pair.question, question.grounded(answer)) for answer in question.answers
    ]


def mistaken(config: WorldConfig, pair: QAPair, sentence: str, random_: Random) -> str | None:
    """The sentence with another kind, from which another answer follows; None where it names no kind."""
    question = Question.of(pair.id, config)
    named = named_kind(question, sentence)
    if named is None:
        return None
    answer = question.answer_of(named)
    others = [kind for kind in question.world.kinds if question.answer_of(kind) != answer]
    return sentence.replace(plural(named), plural(random_.choice(others)), 1)


def cued(config: WorldConfig, pair: QAPair, answer: str, random_: Random) -> tuple[str, str, str] | None:
    """(a first word, the answer that it suggests, the question with it), of another answer than this one."""
    question = Question.of(pair.id, config)
    places = [place for place, other in enumerate(question.answers) if not same_answer(other, answer)]
    if not places:
        return None
    place = random_.choice(places)
    return CUES[place], question.answers[place], question.text(CUES[place])


def named_kind(question: Question, rationale: str) -> str | None:
    """The kind that a rationale names first."""
    kinds = {plural(kind): kind for kind in question.world.kinds}
    return next((kinds[word] for word in rationale.split() if word in kinds), None)
